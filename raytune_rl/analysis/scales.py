"""The axis of a hyperparameter in plots: logarithmic, linear or categorical."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """One hyperparameter's axis.

    Attributes:
        name: of the hyperparameter.
        log: whether the axis is logarithmic.
        lower, upper: the range, if known.
        categories: the options in order, as text; empty for numbers.
        options: the numbers that can be chosen, ascending; empty if any number in the range is possible.
        role: empty if unknown.
    """

    name: str
    log: bool = False
    lower: float | None = None
    upper: float | None = None
    categories: tuple[str, ...] = ()
    options: tuple[float, ...] = ()
    role: str = ""

    def place(self, values: pd.Series) -> np.ndarray:
        """Positions of the values on the axis, float64: the values themselves, or the index of their category; NaN for
        missing ones."""
        if not self.categories:
            return np.asarray(pd.to_numeric(values, errors="coerce").to_numpy(dtype=float, na_value=np.nan))
        order = {text: float(index) for index, text in enumerate(self.categories)}
        codes, uniques = pd.factorize(values)
        positions = np.array([*(order.get(_text(cell), np.nan) for cell in uniques), np.nan], dtype=float)
        return positions[codes]  # the code of missing values is -1: the last position, NaN


def scale_of(name: str, values: pd.Series, described: Mapping[str, Any] | None, seen_as_log: bool) -> Scale:
    """The axis of a hyperparameter.

    Args:
        name: of the hyperparameter.
        values: its column in ``segments.parquet``.
        described: its entry in ``experiment.json``, if there is one.
        seen_as_log: whether the agent's observation has it as logarithmic; for runs that do not describe their space.
    """
    about = described or {}
    role = str(about.get("role") or "")
    options = about.get("options")
    numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    if options and not all(isinstance(o, int | float) and not isinstance(o, bool) for o in options):
        return Scale(name=name, categories=tuple(_text(option) for option in options), role=role)
    if not numeric:
        texts = {_text(cell) for cell in values.dropna().drop_duplicates()}
        return Scale(name=name, categories=tuple(sorted(texts)), role=role)
    if options:
        low, high = min(options), max(options)
        log = low > 0 and high / low >= 8
        return Scale(name=name, log=log, lower=low, upper=high, options=tuple(sorted(options)), role=role)
    log = bool(about.get("log", seen_as_log))
    return Scale(name=name, log=log, lower=about.get("lower"), upper=about.get("upper"), role=role)


def _text(cell: Any) -> str:
    return str(cell.item() if isinstance(cell, np.generic) else cell)
