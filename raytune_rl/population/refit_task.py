"""A refit as a candidate: its members are copies of one trained model, trained further on train and validation rows.

``cross_fitting`` decides which rows each copy holds out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from raytune_rl.population.candidate import Member, MemberContext, Pack, SegmentResult, State
from raytune_rl.population.cross_fitting import Pooled, collapsed, held_by
from raytune_rl.population.evaluation import measure, outputs_of
from raytune_rl.population.optimisers import to_tensor
from raytune_rl.population.splits import Batches, load_splits
from raytune_rl.population.torch_member import TorchMember
from raytune_rl.population.torch_task import TorchTask
from raytune_rl.records import Value

LOSS: Final = "validation_loss"
"""A copy's metric: its loss on the validation rows that it holds out."""
ALL_ROWS: Final = "all_rows_loss"
"""A copy's metric: its loss on all validation rows."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Refit:
    """A candidate whose members are copies of one model. They report ``LOSS`` and ``ALL_ROWS`` and none of the user's
    metrics, which may not work on a few rows.

    Args:
        task: the model's task, with train and validation rows pooled.
        state: the model's snapshot; copies are built with its hyperparameters.
        copies: number of members.
    """

    task: TorchTask
    state: State
    copies: int

    @classmethod
    def of(cls, task: TorchTask, state: State, *, copies: int) -> Refit:
        """From the user's task. If its splits cannot be ``pooled``, building the first member raises."""
        inner = replace(task, data=Pooled(task.data), metrics={}, predictions=False, ensemble_kind=None)
        return cls(task=inner, state=state, copies=copies)

    @property
    def optimizer(self) -> Any:
        """The task's optimiser; the controller needs it to interpret learning rates."""
        return self.task.optimizer

    def check(self, hyperparameters: Mapping[str, Value]) -> None:
        """The task has been checked already."""

    def build(self, context: MemberContext, hyperparameters: Mapping[str, Value]) -> Member:
        return RefitMember(self, context, hyperparameters)

    def pack(self) -> Pack | None:
        return self.task.pack()

    def export(self, state: State, directory: Path) -> None:
        self.task.export(state, directory)

    def test(self, state: State) -> Mapping[str, float]:
        """Nothing: a single copy is not delivered."""
        return {}


class RefitMember(TorchMember):
    """A copy of the model: it begins with the model's weights and a fresh optimiser.

    In a population, a member whose learning rate is just too high is replaced by a copy of another one. A refit
    replaces nobody, so a copy that has collapsed reports NaN as if it had diverged, and the failure policy takes it
    back to its best state with a lower rate. Whether it has collapsed is judged on all validation rows, since the few
    that it holds out may not include those that it fails at.
    """

    def __init__(self, refit: Refit, context: MemberContext, hyperparameters: Mapping[str, Value]) -> None:
        splits = load_splits(refit.task.data, torch.device(context.device))
        rows, pooled_rows = len(splits.validation), len(splits.train)
        held = held_by(context.member, refit.copies, rows)
        trained = torch.ones(pooled_rows, dtype=torch.bool)
        trained[pooled_rows - rows + held] = False  # validation rows come last
        self._trained_rows = trained.nonzero().flatten()
        super().__init__(refit.task, context, hyperparameters)
        self._all_rows, self._validation = splits.validation, splits.validation.subset(held)
        weights = {name: to_tensor(array) for name, array in refit.state["network"].items()}
        self.controls.network.load_state_dict(weights)
        self._first_loss = self._loss_on_all_rows()

    def conclude(self, losses: torch.Tensor, gradients: torch.Tensor, updates: torch.Tensor) -> SegmentResult:
        result = super().conclude(losses, gradients, updates)
        held_loss, all_rows_loss = result.metrics[LOSS], self._loss_on_all_rows()
        if collapsed(all_rows_loss, self._first_loss):
            held_loss = math.nan
        elif not math.isfinite(held_loss):  # the loss ignores the targets of all rows that are held out
            held_loss = all_rows_loss
        self._metrics |= {LOSS: held_loss, ALL_ROWS: all_rows_loss}
        return replace(result, metrics=dict(self._metrics))

    def stream(self) -> Batches:
        """Batches of all rows but those that are held out."""
        return Batches(self._train, seed=self.seed, device=self.device, among=self._trained_rows)

    def _loss_on_all_rows(self) -> float:
        network, split = self.controls.network, self._all_rows
        outputs = outputs_of(network, split, device=self.device, autocast=self._precision.autocast)
        return measure(outputs, split, loss=self._loss, metrics={}, prefix="validation")[LOSS]
