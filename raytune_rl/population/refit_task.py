"""A refit as a candidate: its members are copies of one model that train on, on the rows of train and validation.

Which rows each copy holds out is in ``cross_fitting``.
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
        task: the model's.
        state: the model's; copies are built with its hyperparameters.
        copies: number of members.
    """

    task: TorchTask
    state: State
    copies: int

    @classmethod
    def of(cls, task: TorchTask, state: State, *, copies: int) -> Refit:
        """From the user's task. Whether its splits can be ``pooled`` shows when the first member is built."""
        inner = replace(task, data=Pooled(task.data), metrics={}, predictions=False, ensemble_kind=None)
        return cls(task=inner, state=state, copies=copies)

    @property
    def optimizer(self) -> Any:
        """The task's; the controller reads learning rates by it."""
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
    """A copy: begins with the model's weights, and a fresh optimiser.

    In a population, a member whose learning rate is just too high is replaced by a copy of another one. In a refit
    nobody is replaced, so a copy that has collapsed reports that it has diverged, and the failure policy takes it back
    to its best with a lower rate. It is judged by all validation rows: the few that it holds out may lack those that it
    fails at.
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
        result = super().conclude(losses, gradients, updates)
        held, everywhere = result.metrics[LOSS], self._loss_on_all_rows()
        if collapsed(everywhere, self._first):
            held = math.nan
        elif not math.isfinite(held):  # none of its rows has a target that the loss counts
            held = everywhere
        self._metrics |= {LOSS: held, ALL_ROWS: everywhere}
        return replace(result, metrics=dict(self._metrics))

    def stream(self) -> Batches:
        """All rows but those that are held out."""
        return Batches(self._train, seed=self.seed, device=self.device, among=self._among)

    def _loss_on_all_rows(self) -> float:
        network, split = self.controls.network, self._all_rows
        outputs = outputs_of(network, split, device=self.device, autocast=self._precision.autocast)
        return measure(outputs, split, loss=self._loss, metrics={}, prefix="validation")[LOSS]
