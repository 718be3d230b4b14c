"""Cross-fitting: each copy of a model holds out another part of the validation rows, and trains on all other rows.

Validation data choose a model and then lie idle, as a fifth of all rows or more. Every search of scikit-learn refits
its best configuration on all rows in the end (``GridSearchCV(refit=True)``); a network, which has been trained already,
need not start again for that. Since every validation row is held out by some copy, it is predicted by a model that has
not seen it, and what is delivered still has an honest validation score.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any, Final

import torch

from raytune_rl.mdp.score import OFFSET
from raytune_rl.population.splits import CPU, DataSource, Split, Splits, load_splits

FOLDS: Final = 8
"""The validation rows are cut into at most so many parts; a copy does without one of them."""
MIN_ROWS: Final = 4
"""Fewest validation rows: two for each of two copies."""
BARRIER: Final = 0.1
"""See ``drifted_apart``."""
COLLAPSE: Final = 1.0
"""See ``collapsed``."""


def folds_of(copies: int, rows: int) -> int:
    """The number of parts that ``rows`` of validation are cut into; copy i holds out the part i modulo that number."""
    return max(2, min(FOLDS, copies, rows // 2))


def held_by(copy: int, copies: int, rows: int) -> torch.Tensor:
    """The validation rows that a copy never trains on, int64."""
    folds = folds_of(copies, rows)
    return torch.arange(copy % folds, rows, folds)


def pooled(splits: Splits) -> Split:
    """The rows of the train split, and then those of validation.

    Raises:
        ValueError: they do not fit together, or validation has less than ``MIN_ROWS``.
    """
    train, validation = splits.train, splits.validation
    if len(validation) < MIN_ROWS:
        raise ValueError(f"validation has {len(validation)} rows, and a refit needs at least {MIN_ROWS}")
    for what in ("inputs", "targets"):
        in_train, in_validation = _described(getattr(train, what)), _described(getattr(validation, what))
        if in_train != in_validation:
            raise ValueError(f"{what} of the train split are {in_train}, those of validation {in_validation}")
    return Split(
        inputs=torch.cat([train.inputs, validation.inputs]), targets=torch.cat([train.targets, validation.targets])
    )


def collapsed(after: float, before: float) -> bool:
    """Whether a refit, or one of its copies, has failed: its loss on validation rows is not finite, or (of losses above
    zero, which alone have a ratio) twice that of the model it began with, to within ``mdp.score.OFFSET``."""
    return not math.isfinite(after) or (before > 0 and _share(after, before) > COLLAPSE)


def drifted_apart(average: float, alone: Sequence[float]) -> bool:
    """Whether training at a high rate has moved copies so far apart that their average lies on a loss barrier between
    them: it is a tenth worse than the median copy, or, where losses are below zero, worse than every copy.

    Args:
        average: its loss on the validation rows, which each copy has seen most of.
        alone: the copies'.
    """
    middle = statistics.median(alone)
    return not math.isfinite(average) or (_share(average, middle) > BARRIER if middle > 0 else average > max(alone))


def _share(after: float, before: float) -> float:
    """By how much of itself a loss above zero has grown."""
    return (after - before) / (before + OFFSET)


class Pooled:
    """A data source whose train split is all rows that ``data`` trains and validates on.

    Args:
        data: of the task.
    """

    def __init__(self, data: DataSource) -> None:
        self.data = data

    def __call__(self) -> tuple[Any, Any, Any]:
        splits = load_splits(self.data, CPU)
        validation, together = splits.validation, pooled(splits)
        return (together.inputs, together.targets), (validation.inputs, validation.targets), None


def _described(values: torch.Tensor) -> str:
    return f"{str(values.dtype).removeprefix('torch.')} of shape {tuple(values.shape[1:])} per example"
