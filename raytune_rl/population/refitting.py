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

from raytune_rl.mdp.score import Score
from raytune_rl.population.candidate import Member, MemberContext, Pack, SegmentResult, State
from raytune_rl.population.evaluation import measure, outputs_of
from raytune_rl.population.optimisers import to_tensor
from raytune_rl.population.splits import Batches, DataSource, Split, Splits, load_splits
from raytune_rl.population.torch_member import TorchMember
from raytune_rl.population.torch_task import TorchTask
from raytune_rl.records import Value

FOLDS: Final = 8
"""Into so many parts at most the validation rows are cut; an eighth is what a copy does without."""
CPU: Final = torch.device("cpu")

LOSS: Final = Score(metric="validation_loss", mode="min")
BARRIER: Final = 0.1
"""See ``parted``; on ``LOSS``'s scale, so an average that is 10 % worse than what it is an average of."""
COLLAPSE: Final = 0.7
"""See ``collapsed``; e^0.7 = 2."""


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
        ValueError: they do not fit together, or validation has a single row.
    """
    train, validation = splits.train, splits.validation
    if len(validation) < 2:
        raise ValueError("validation has a single row, of which a refit cannot do without any")
    if train.targets.shape[1:] != validation.targets.shape[1:] or train.targets.dtype != validation.targets.dtype:
        raise ValueError(
            f"targets of the train split are {_told(train.targets)}, those of validation {_told(validation.targets)}"
        )
    return Split(
        inputs=torch.cat([train.inputs, validation.inputs]), targets=torch.cat([train.targets, validation.targets])
    )


def parted(average: float, alone: Sequence[float]) -> bool:
    """Whether copies have come so far apart, at a high rate, that their average lies on a barrier between them.

    Args:
        average: its loss on the validation rows, which each copy has seen most of.
        alone: the copies'.
    """
    return LOSS.of(average) < statistics.median(LOSS.of(loss) for loss in alone) - BARRIER


def collapsed(after: float, before: float) -> bool:
    """Whether a refit, or one of its copies, has gone wrong: its loss on the validation rows is twice that of the model
    it began with, which had not trained on any of them."""
    return LOSS.of(after) < LOSS.of(before) - COLLAPSE


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
    """A candidate whose members are such copies. Their ``validation_loss`` is that of the rows that they hold out, and
    the only metric: others may not work on a few rows.

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
        """Raises ``ValueError`` as ``pooled`` does."""
        pooled(load_splits(task.data, CPU))
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
    has collapsed says that it has diverged, and the failure policy takes it back to its best with a lower rate.
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
        if collapsed(self._loss_on_all_rows(), self._first):
            return replace(found, metrics={**found.metrics, LOSS.metric: math.nan})
        return found

    def _loss_on_all_rows(self) -> float:
        """Of validation: the few that it holds out may lack what it fails at."""
        network, split = self.controls.network, self._all_rows
        outputs = outputs_of(network, split, device=self.device, autocast=self._precision.autocast)
        return measure(outputs, split, loss=self._loss, metrics={}, prefix="validation")[LOSS.metric]

    def stream(self) -> Batches:
        """All rows but those that are held out."""
        return Batches(self._train, seed=self.seed, device=self.device, among=self._among)


def _told(targets: torch.Tensor) -> str:
    return f"{str(targets.dtype).removeprefix('torch.')} of shape {tuple(targets.shape[1:])} per example"
