"""Trains K members of one task together, segment by segment, and measures what a real trial would report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from raytune_rl.combining.losses import comparable
from raytune_rl.population.curves import curve_signals
from raytune_rl.population.packed.losses import LossName, feature_major, loss_and_grad
from raytune_rl.population.packed.population import PackedPopulation
from raytune_rl.population.packed.segment import Batch, train_segment
from raytune_rl.population.packed.weights import Weights
from raytune_rl.population.predictions import Sample
from raytune_rl.population.randomness import seeded
from raytune_rl.population.splits import Split
from raytune_rl.records import Value
from raytune_rl.worlds.task import WorldTask

CPU = torch.device("cpu")
PROBES = 4
"""Steps per segment whose gradient and update are measured."""

SETTINGS = ("learning_rate", "weight_decay", "momentum", "dropout", "label_smoothing")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was measured in one segment.

    Attributes:
        validation_loss: after the segment, shape (K,).
        signals: ``mdp.state.SIGNALS`` without the time, by name, each of shape (K,).
        predictions: for a sample of the validation split, (K, rows, outputs), if they were asked for.
    """

    validation_loss: np.ndarray
    signals: Mapping[str, np.ndarray]
    predictions: np.ndarray | None = None


class Cohort:
    """K members that train together.

    Args:
        task: what they learn.
        streams: a stream number for each member, shape (K,). Members of the same stream start from the same weights and
            see the same batches, so that only their decisions make them differ.
        seed: all randomness derives from it.
        device: where the members train.
        restartable: keep the initial weights, for ``restart``.
        unseen: bool, shape (streams, N): the rows of the train split that the members of each stream never train on.
    """

    def __init__(
        self,
        task: WorldTask,
        streams: Sequence[int],
        *,
        seed: int,
        device: str = "cpu",
        restartable: bool = False,
        unseen: torch.Tensor | None = None,
    ) -> None:
        self.task = task
        self._device = torch.device(device)
        self._streams = torch.as_tensor(list(streams), device=self._device)
        self._stream_count = int(self._streams.max()) + 1
        with seeded(CPU, seed):  # the same initial weights on every device
            networks = [task.network() for _ in range(self._stream_count)]
        self._generator = torch.Generator(device=self._device)
        self._generator.manual_seed(seed + 1)
        self._population = PackedPopulation(
            [networks[stream] for stream in streams], loss=task.loss, optimizer=task.optimizer, device=device
        )
        self._train = _to(task.splits.train, self._device)
        self._validation = _to(task.splits.validation, self._device)
        # Rows of the next batches, for each stream.
        self._order = torch.empty(self._stream_count, 0, dtype=torch.int64, device=self._device)
        self._best = self._population.snapshot()
        self._initial = self._population.snapshot() if restartable else None
        self._best_loss = np.full(len(streams), np.inf)
        self._values: list[Mapping[str, Value]] = [{}] * len(streams)
        self._best_values = self._values[:]
        self._unseen = None if unseen is None else unseen.to(self._device)
        self._rows_per_epoch = len(self._train) - (0 if unseen is None else int(unseen.sum(dim=1).max()))

    def __len__(self) -> int:
        return len(self._population)

    def apply(self, values: Sequence[Mapping[str, Value]]) -> None:
        """Set the hyperparameters of all members: for each of them, values by name."""
        self._values = list(values)
        for hyperparameter in self.task.space:
            name = hyperparameter.role if hyperparameter.role in SETTINGS else hyperparameter.name
            setting: torch.Tensor = getattr(self._population.settings, name)
            column = torch.tensor([float(of_member[hyperparameter.name]) for of_member in values])
            setting.copy_(column.unsqueeze(1) if setting.ndim == 2 else column)

    def take(self, targets: Sequence[int], sources: Sequence[int], from_best: Sequence[bool]) -> None:
        """Copy weights to the members ``targets`` from ``sources``: their best weights where ``from_best``, else their
        present ones."""
        if targets:
            self._population.copy(sources, targets, snapshot=self._best, from_snapshot=from_best)

    def restart(self, members: Sequence[int]) -> None:
        """Start these members again, each from the initial weights of a random member and without optimiser state."""
        if not members:
            return
        assert self._initial is not None, "the cohort was not made restartable"
        sources = torch.randint(len(self), (len(members),), generator=self._generator, device=self._device).tolist()
        self._population.copy(sources, members, snapshot=self._initial, from_snapshot=[True] * len(members))
        self._best_loss[list(members)] = np.inf
        for member in members:
            self._best_values[member] = {}

    def narrowed(self, members: Sequence[int]) -> Cohort:
        """A cohort of these members only. They continue from their present state, each with batches of its own."""
        cohort = Cohort(self.task, range(len(members)), seed=self._draw_seed(), device=str(self._device))
        cohort._population.adopt(self._population, members)
        cohort._best = cohort._population.snapshot()
        return cohort

    def train(self, sample: Sample | None = None) -> Measured:
        """Train every member for one segment and validate it. With ``sample``, also return predictions for it."""
        with seeded(self._device, self._draw_seed()):
            curves = train_segment(self._population, self._next_batch, self.task.segment_length, PROBES)
        outputs = self.outputs(self._validation)
        loss = self.validated(outputs)
        better = comparable(loss) < self._best_loss
        self._best_loss = np.where(better, loss, self._best_loss)
        for member in np.flatnonzero(better).tolist():
            self._best_values[member] = self._values[member]
        self._population.keep(torch.as_tensor(better, device=self._device), self._best)
        norms = {"grad_norm": curves.gradient_norms, "update_norm": curves.update_norms}
        return Measured(
            validation_loss=loss,
            signals=curve_signals(curves.losses.double().cpu().numpy())
            | {name: values.mean(0).cpu().numpy() for name, values in norms.items()},
            predictions=None if sample is None else sample.predictions(outputs),
        )

    def validated(self, outputs: torch.Tensor) -> np.ndarray:
        """The losses that members are compared by, (K,), from their ``outputs`` for the validation split."""
        return self.losses(outputs, self._validation)

    def enter(self, weights: Weights) -> None:
        """Give all members these weights, which then also count as their best."""
        self.present.write(weights)
        self._best = self._population.snapshot()
        self._best_loss = comparable(self.validated(self.outputs(self._validation)))

    def score(self, split: Split) -> tuple[np.ndarray, np.ndarray]:
        """Loss and accuracy (NaN for a regression) of all members on ``split``, arrays of shape (K,)."""
        return self.judge(self.outputs(split), split)

    def outputs(self, split: Split, models: Weights | None = None) -> torch.Tensor:
        """The outputs of all members for ``split``, shape (K, N, ...), or of n other ``models`` of the same network,
        (n, N, ...)."""
        return self._population.outputs(split.inputs.to(self._device), models)

    @property
    def present(self) -> Weights:
        """The members' present weights: views, not copies."""
        return self._population.weights

    @property
    def best(self) -> tuple[Weights, np.ndarray]:
        """Each member's weights when its validation loss was lowest (views, not copies), and that loss, (K,): infinite
        for a member that has had no finite one."""
        return self._best.weights, self._best_loss

    @property
    def best_values(self) -> Sequence[Mapping[str, Value]]:
        """Each member's hyperparameters at its lowest loss, or its present ones if it has had no finite loss."""
        return [best or present for best, present in zip(self._best_values, self._values, strict=True)]

    def judge(self, outputs: torch.Tensor, split: Split) -> tuple[np.ndarray, np.ndarray]:
        """What ``score`` returns, for ``outputs`` that were computed for ``split``."""
        accuracies = _accuracies(self.task.loss, outputs, split.targets.to(self._device))
        return self.losses(outputs, split), accuracies.double().cpu().numpy()

    def losses(self, outputs: torch.Tensor, split: Split) -> np.ndarray:
        """Only the losses of ``judge``."""
        return _losses(self.task.loss, outputs, split.targets.to(self._device)).double().cpu().numpy()

    def _draw_seed(self) -> int:
        """A seed from the cohort's own generator."""
        return int(torch.randint(2**62, (), generator=self._generator, device=self._device))

    def _next_batch(self) -> Batch:
        """The next batch of every member, with equal weights."""
        rows = self._rows(min(self.task.batch_size, self._rows_per_epoch))
        inputs, targets = self._train.rows(rows, self._device)
        return inputs, targets, None

    def _rows(self, size: int) -> torch.Tensor:
        """The next ``size`` examples of every member, without replacement, epoch after epoch: (K, size)."""
        while self._order.shape[1] < size:
            draw = torch.rand(self._stream_count, len(self._train), generator=self._generator, device=self._device)
            if self._unseen is not None:
                draw[self._unseen] = 2.0  # above all others, so sorted to the end and cut off
            self._order = torch.cat([self._order, draw.argsort(dim=1)[:, : self._rows_per_epoch]], dim=1)
        rows, self._order = self._order[:, :size], self._order[:, size:]
        return rows[self._streams]


def _losses(loss: LossName, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean losses (K,) of outputs (K, N, ...) for the same targets (N, ...)."""
    repeated = targets.expand(len(outputs), *targets.shape)
    if loss != "cross_entropy":
        repeated = feature_major(repeated)
    return loss_and_grad(loss, feature_major(outputs), repeated)[0]


def _accuracies(loss: LossName, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Shares of right answers (K,), for arguments as those of ``_losses``; NaN for a regression."""
    if loss == "mse":
        return outputs.new_full((len(outputs),), float("nan"))
    answers = outputs.argmax(dim=2) if loss == "cross_entropy" else (outputs > 0).to(targets.dtype)
    return (answers == targets).to(outputs.dtype).flatten(1).mean(dim=1)


def _to(split: Split, device: torch.device) -> Split:
    return Split(inputs=split.inputs.to(device), targets=split.targets.to(device))
