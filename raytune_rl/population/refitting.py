"""Trains copies of one model on with the rows that chose it: all of them, but for a few that each copy never sees.

Validation data choose a model and then lie idle, as a fifth of all rows or more. Every search of scikit-learn refits
its best configuration on all rows in the end (``GridSearchCV(refit=True)``); a network, which has been trained already,
need not start again for that. Each copy holds out another part of the validation rows (cross-fitting), so every row is
predicted by a model that has not seen it, and what is delivered still has an honest validation score.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from raytune_rl.mdp.score import OFFSET
from raytune_rl.population.candidate import Member, MemberContext, Pack, SegmentResult, State
from raytune_rl.population.evaluation import measure, outputs_of
from raytune_rl.population.optimisers import to_tensor
from raytune_rl.population.splits import Batches, DataSource, Split, Splits, load_splits
from raytune_rl.population.torch_member import TorchMember
from raytune_rl.population.torch_task import TorchTask
from raytune_rl.records import Value

FOLDS: Final = 8
"""Into so many parts at most the validation rows are cut; an eighth is what a copy does without."""
FEWEST: Final = 4
"""Rows of validation: two for each of two copies."""
CPU: Final = torch.device("cpu")

LOSS: Final = "validation_loss"
ALL_ROWS: Final = "all_rows_loss"
"""Metrics of a copy: its loss on the validation rows that it holds out, and on all of them."""
BARRIER: Final = 0.1
COLLAPSE: Final = 1.0
"""See ``parted`` and ``collapsed``."""


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
        ValueError: they do not fit together, or validation has less than ``FEWEST``.
    """
    train, validation = splits.train, splits.validation
    if len(validation) < FEWEST:
        raise ValueError(f"validation has {len(validation)} rows, and a refit needs at least {FEWEST}")
    for what in ("inputs", "targets"):
        one, other = _told(getattr(train, what)), _told(getattr(validation, what))
        if one != other:
            raise ValueError(f"{what} of the train split are {one}, those of validation {other}")
    return Split(
        inputs=torch.cat([train.inputs, validation.inputs]), targets=torch.cat([train.targets, validation.targets])
    )


def collapsed(after: float, before: float) -> bool:
    """Whether a refit, or one of its copies, has gone wrong: its loss on validation rows is twice that of the model it
    began with (beyond ``mdp.score.OFFSET``), or not finite. A loss below zero has no zero to be measured by, so there
    nothing but the latter counts."""
    return not math.isfinite(after) or (before > 0 and _share(after, before) > COLLAPSE)


def parted(average: float, alone: Sequence[float]) -> bool:
    """Whether copies have come so far apart, at a high rate, that their average lies on a barrier between them: it is a
    tenth worse than they are in the median, or, where losses are below zero, worse than each of them.

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


@dataclass(frozen=True, eq=False, kw_only=True)
class Refit:
    """A candidate whose members are such copies. They report ``LOSS`` and ``ALL_ROWS``, and no metrics of the user's,
    which may not work on a few rows.

    Args:
        task: whose model it is.
        state: the model's; its hyperparameters are those that the copies are built with.
        copies: members that there will be.
    """

    task: TorchTask
    state: State
    copies: int

    @classmethod
    def of(cls, task: TorchTask, state: State, *, copies: int) -> Refit:
        """Of a task as the user has given it; whether its rows can be ``pooled`` shows in the first member."""
        inner = replace(task, data=Pooled(task.data), metrics={}, predictions=False, ensemble_kind=None)
        return cls(task=inner, state=state, copies=copies)

    @property
    def optimizer(self) -> Any:
        """The task's, by which controllers tell how rates are to be read."""
        return self.task.optimizer

    def check(self, hyperparameters: Mapping[str, Value]) -> None:
        """Nothing that the task has not been asked."""

    def build(self, context: MemberContext, hyperparameters: Mapping[str, Value]) -> Member:
        return RefitMember(self, context, hyperparameters)

    def pack(self) -> Pack | None:
        return self.task.pack()

    def export(self, state: State, directory: Path) -> None:
        self.task.export(state, directory)

    def test(self, state: State) -> Mapping[str, float]:
        """Nothing: a copy alone is nobody's model."""
        return {}


class RefitMember(TorchMember):
    """A copy: begins with the model's weights, and a fresh optimiser.

    In a population whoever trains at a rate that is just too high is replaced by others. Here nobody is, so a copy that
    has collapsed says that it has diverged, and the failure policy takes it back to its best with a lower rate. All
    validation rows tell that: the few that a copy holds out may lack what it fails at.
    """

    def __init__(self, refit: Refit, context: MemberContext, hyperparameters: Mapping[str, Value]) -> None:
        splits = load_splits(refit.task.data, torch.device(context.device))
        rows, together = len(splits.validation), len(splits.train)
        held = held_by(context.member, refit.copies, rows)
        trained = torch.ones(together, dtype=torch.bool)
        trained[together - rows + held] = False
        self._among = trained.nonzero().flatten()
        super().__init__(refit.task, context, hyperparameters)
        self._all_rows, self._validation = splits.validation, splits.validation.subset(held)
        weights = {name: to_tensor(array) for name, array in refit.state["network"].items()}
        self.controls.network.load_state_dict(weights)
        self._first = self._loss_on_all_rows()

    def conclude(self, losses: torch.Tensor, gradients: torch.Tensor, updates: torch.Tensor) -> SegmentResult:
        found = super().conclude(losses, gradients, updates)
        held, everywhere = found.metrics[LOSS], self._loss_on_all_rows()
        if collapsed(everywhere, self._first):
            held = math.nan
        elif not math.isfinite(held):  # its rows have no answers that the loss counts
            held = everywhere
        self._metrics |= {LOSS: held, ALL_ROWS: everywhere}
        return replace(found, metrics=dict(self._metrics))

    def stream(self) -> Batches:
        """All rows but those that are held out."""
        return Batches(self._train, seed=self.seed, device=self.device, among=self._among)

    def _loss_on_all_rows(self) -> float:
        network, split = self.controls.network, self._all_rows
        outputs = outputs_of(network, split, device=self.device, autocast=self._precision.autocast)
        return measure(outputs, split, loss=self._loss, metrics={}, prefix="validation")[LOSS]


def _told(values: torch.Tensor) -> str:
    return f"{str(values.dtype).removeprefix('torch.')} of shape {tuple(values.shape[1:])} per example"
