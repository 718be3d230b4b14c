"""How the values of a hyperparameter lie on an axis: logarithmic, linear or as categories."""

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
        log: equal ratios are equal distances.
        lower, upper: its range, where it is known.
        categories: the options in their order, as text; empty for numbers.
        options: the numbers that it chooses among, in rising order; empty where it takes any.
        role: what it is for; empty where that is unknown.
    """

    name: str
    log: bool = False
    lower: float | None = None
    upper: float | None = None
    categories: tuple[str, ...] = ()
    options: tuple[float, ...] = ()
    role: str = ""

    def place(self, values: pd.Series) -> np.ndarray:
        """Where the values lie on the axis, float64: themselves, or the index of their category; NaN for none."""
        if not self.categories:
            return np.asarray(pd.to_numeric(values, errors="coerce").to_numpy(dtype=float, na_value=np.nan))
        order = {text: float(index) for index, text in enumerate(self.categories)}
        codes, found = pd.factorize(values)  # missing ones are -1
        places = np.array([*(order.get(_text(cell), np.nan) for cell in found), np.nan], dtype=float)
        return places[codes]


def scale_of(name: str, values: pd.Series, described: Mapping[str, Any] | None, seen_as_log: bool) -> Scale:
    """The axis of a hyperparameter.

    Args:
        name: of the hyperparameter.
        values: its column in ``segments.parquet``.
        described: its entry in ``experiment.json``, if there is one.
        seen_as_log: what the agent's observation says of it, for runs that do not describe their space.
    """
    about = described or {}
    role = str(about.get("role") or "")
    options = about.get("options")
    numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    if options and not all(isinstance(o, int | float) and not isinstance(o, bool) for o in options):
        return Scale(name=name, categories=tuple(_text(option) for option in options), role=role)
    if not numeric:
        found = dict.fromkeys(_text(cell) for cell in values.dropna().drop_duplicates())
        return Scale(name=name, categories=tuple(sorted(found)), role=role)
    if options:
        low, high = min(options), max(options)
        log = low > 0 and high / low >= 8
        return Scale(name=name, log=log, lower=low, upper=high, options=tuple(sorted(options)), role=role)
    seen = bool(about.get("log", seen_as_log))
    return Scale(name=name, log=seen, lower=about.get("lower"), upper=about.get("upper"), role=role)


def _text(cell: Any) -> str:
    return str(cell.item() if isinstance(cell, np.generic) else cell)
