"""Cross-fitting: each copy of a model holds out a different part of the validation rows and trains on all other rows.

Once validation data have chosen a model they are not used again, although they may be a fifth of all rows or more.
Scikit-learn's searches therefore refit the best configuration on all rows in the end (``GridSearchCV(refit=True)``). A
network need not start from scratch for that, since it has been trained already. Every validation row is held out by
some copy, and so predicted by a model that has not seen it; the delivered model still has an honest validation score.
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
"""The largest number of parts that the validation rows are cut into; each copy holds out one part."""
MIN_ROWS: Final = 4
"""Fewest validation rows: two for each of two copies."""
BARRIER: Final = 0.1
"""See ``drifted_apart``."""
COLLAPSE: Final = 1.0
"""See ``collapsed``."""


def folds_of(copies: int, rows: int) -> int:
    """The number of parts that ``rows`` validation rows are cut into; copy i holds out part i modulo that number."""
    return max(2, min(FOLDS, copies, rows // 2))


def held_by(copy: int, copies: int, rows: int) -> torch.Tensor:
    """The validation rows that a copy never trains on, int64."""
    folds = folds_of(copies, rows)
    return torch.arange(copy % folds, rows, folds)


def pooled(splits: Splits) -> Split:
    """The rows of the train split, followed by those of validation.

    Raises:
        ValueError: their dtypes or shapes differ, or validation has fewer than ``MIN_ROWS`` rows.
    """
    train, validation = splits.train, splits.validation
    if len(validation) < MIN_ROWS:
        raise ValueError(f"validation has {len(validation)} rows, and a refit needs at least {MIN_ROWS}")
    for part in ("inputs", "targets"):
        in_train, in_validation = _describe(getattr(train, part)), _describe(getattr(validation, part))
        if in_train != in_validation:
            raise ValueError(f"{part} of the train split are {in_train}, those of validation {in_validation}")
    return Split(
        inputs=torch.cat([train.inputs, validation.inputs]), targets=torch.cat([train.targets, validation.targets])
    )


def collapsed(after: float, before: float) -> bool:
    """Whether a refit, or one of its copies, has failed: its loss on validation rows is not finite, or more than twice
    that of the model it began with. The latter applies to losses above zero only, and is exact to within
    ``mdp.score.OFFSET``."""
    return not math.isfinite(after) or (before > 0 and _relative_growth(after, before) > COLLAPSE)


def drifted_apart(average: float, alone: Sequence[float]) -> bool:
    """Whether training at a high rate has moved the copies so far apart that the average of their weights lies on a
    loss barrier between them: its loss is a tenth (``BARRIER``) above that of the median copy, or, if that is not above
    zero, worse than that of every copy.

    Args:
        average: the averaged model's loss on the validation rows, most of which each copy has trained on.
        alone: the copies' losses on the same rows.
    """
    middle = statistics.median(alone)
    if not math.isfinite(average):
        return True
    return _relative_growth(average, middle) > BARRIER if middle > 0 else average > max(alone)


def _relative_growth(after: float, before: float) -> float:
    """By what share a loss above zero has grown; ``OFFSET`` keeps it finite for losses close to zero."""
    return (after - before) / (before + OFFSET)


class Pooled:
    """A data source whose train split is the train and validation rows of another one, ``data``. It has no test
    split."""

    def __init__(self, data: DataSource) -> None:
        self.data = data

    def __call__(self) -> tuple[Any, Any, Any]:
        splits = load_splits(self.data, CPU)
        validation, train = splits.validation, pooled(splits)
        return (train.inputs, train.targets), (validation.inputs, validation.targets), None


def _describe(values: torch.Tensor) -> str:
    return f"{str(values.dtype).removeprefix('torch.')} of shape {tuple(values.shape[1:])} per example"
