"""Trains K members of one task together, segment by segment, and says of each what a real trial would report."""

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
    """What a segment gave: the validation loss, and ``mdp.state.SIGNALS`` but the time, arrays of shape (K,).

    ``predictions``: of a sample of the validation split, (K, rows, outputs), where they were asked for.
    """

    validation_loss: np.ndarray
    signals: Mapping[str, np.ndarray]
    predictions: np.ndarray | None = None


class Cohort:
    """K members under training.

    Args:
        task: what they learn.
        streams: shape (K,): members with the same number start from the same weights and see the same batches, so that
            what differs between them comes from their decisions alone.
        seed: all randomness derives from it.
        device: where it happens.
        restartable: keep the initial weights for ``restart``.
        unseen: bool, shape (streams, N): rows of the train split that members with a stream never train on.
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
        self._distinct = int(self._streams.max()) + 1
        with seeded(CPU, seed):  # the same initial weights on every device
            networks = [task.network() for _ in range(self._distinct)]
        self._generator = torch.Generator(device=self._device)
        self._generator.manual_seed(seed + 1)
        self._population = PackedPopulation(
            [networks[stream] for stream in streams], loss=task.loss, optimizer=task.optimizer, device=device
        )
        self._train = _to(task.splits.train, self._device)
        self._validation = _to(task.splits.validation, self._device)
        self._order = torch.empty(self._distinct, 0, dtype=torch.int64, device=self._device)
        self._best = self._population.snapshot()
        self._initial = self._population.snapshot() if restartable else None
        self._best_loss = np.full(len(streams), np.inf)
        self._values: list[Mapping[str, Value]] = [{}] * len(streams)
        self._best_values = self._values[:]
        self._unseen = None if unseen is None else unseen.to(self._device)
        hidden = 0 if unseen is None else int(unseen.sum(dim=1).max())
        self._seen = len(self._train) - hidden  # rows of an epoch

    def __len__(self) -> int:
        return len(self._population)

    def apply(self, values: Sequence[Mapping[str, Value]]) -> None:
        """Every member's hyperparameters, by name."""
        self._values = list(values)
        for hyperparameter in self.task.space:
            name = hyperparameter.role if hyperparameter.role in SETTINGS else hyperparameter.name
            setting: torch.Tensor = getattr(self._population.settings, name)
            each = torch.tensor([float(value[hyperparameter.name]) for value in values])
            setting.copy_(each.unsqueeze(1) if setting.ndim == 2 else each)

    def take(self, targets: Sequence[int], sources: Sequence[int], from_best: Sequence[bool]) -> None:
        """Members ``targets`` go on from the weights of ``sources``: their present ones or their best checkpoints."""
        if targets:
            self._population.copy(sources, targets, snapshot=self._best, from_snapshot=from_best)

    def restart(self, members: Sequence[int]) -> None:
        """These members begin anew: each with the initial weights of one that is drawn, without optimiser state."""
        if not members:
            return
        assert self._initial is not None, "the cohort was not made restartable"
        sources = torch.randint(len(self), (len(members),), generator=self._generator, device=self._device).tolist()
        self._population.copy(sources, members, snapshot=self._initial, from_snapshot=[True] * len(members))
        self._best_loss[list(members)] = np.inf
        for member in members:
            self._best_values[member] = {}

    def narrowed(self, members: Sequence[int]) -> Cohort:
        """A cohort of these members only, which go on from where they are, with batches of their own."""
        found = Cohort(self.task, range(len(members)), seed=self._drawn(), device=str(self._device))
        found._population.adopt(self._population, members)
        found._best = found._population.snapshot()
        return found

    def train(self, sample: Sample | None = None) -> Measured:
        """One segment of every member, and its validation; ``sample``: what they are to say their predictions for."""
        with seeded(self._device, self._drawn()):
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
        """What members are judged by: the losses of their ``outputs`` for the validation split, (K,)."""
        return self.losses(outputs, self._validation)

    def enter(self, weights: Weights) -> None:
        """All members go on from these, which count as their best."""
        self.present.write(weights)
        self._best = self._population.snapshot()
        self._best_loss = comparable(self.validated(self.outputs(self._validation)))

    def score(self, split: Split) -> tuple[np.ndarray, np.ndarray]:
        """Loss and accuracy (NaN for a regression) of all members on ``split``, arrays of shape (K,)."""
        return self.judge(self.outputs(split), split)

    def outputs(self, split: Split, models: Weights | None = None) -> torch.Tensor:
        """What all members make of ``split``, shape (K, N, ...); or other ``models`` like them, (n, N, ...)."""
        return self._population.outputs(split.inputs.to(self._device), models)

    @property
    def present(self) -> Weights:
        """What the members are, in place."""
        return self._population.weights

    @property
    def best(self) -> tuple[Weights, np.ndarray]:
        """What each of them was at its best by validation, in place, and its loss then, (K,): infinite where there was
        none yet that is finite."""
        return self._best.weights, self._best_loss

    @property
    def best_values(self) -> Sequence[Mapping[str, Value]]:
        """The hyperparameters that each of them had then; those of now where there was none yet."""
        return [best or now for best, now in zip(self._best_values, self._values, strict=True)]

    def judge(self, outputs: torch.Tensor, split: Split) -> tuple[np.ndarray, np.ndarray]:
        """Loss and accuracy of such outputs, as ``score``."""
        answers = _accuracies(self.task.loss, outputs, split.targets.to(self._device))
        return self.losses(outputs, split), answers.double().cpu().numpy()

    def losses(self, outputs: torch.Tensor, split: Split) -> np.ndarray:
        """The losses alone."""
        return _losses(self.task.loss, outputs, split.targets.to(self._device)).double().cpu().numpy()

    def _drawn(self) -> int:
        """A seed."""
        return int(torch.randint(2**62, (), generator=self._generator, device=self._device))

    def _next_batch(self) -> Batch:
        """The next batch of every member, with equal weights."""
        rows = self._rows(min(self.task.batch_size, self._seen))
        inputs, targets = self._train.rows(rows, self._device)
        return inputs, targets, None

    def _rows(self, size: int) -> torch.Tensor:
        """The next ``size`` examples of every member, without replacement, epoch after epoch: (K, size)."""
        while self._order.shape[1] < size:
            draw = torch.rand(self._distinct, len(self._train), generator=self._generator, device=self._device)
            if self._unseen is not None:
                draw[self._unseen] = 2.0  # comes last
            self._order = torch.cat([self._order, draw.argsort(dim=1)[:, : self._seen]], dim=1)
        rows, self._order = self._order[:, :size], self._order[:, size:]
        return rows[self._streams]


def _losses(loss: LossName, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean losses (K,) of outputs (K, N, ...) for the same targets (N, ...)."""
    alike = targets.expand(len(outputs), *targets.shape)
    return loss_and_grad(loss, feature_major(outputs), alike if loss == "cross_entropy" else feature_major(alike))[0]


def _accuracies(loss: LossName, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Shares of right answers (K,), likewise; NaN for a regression."""
    if loss == "mse":
        return outputs.new_full((len(outputs),), float("nan"))
    answers = outputs.argmax(dim=2) if loss == "cross_entropy" else (outputs > 0).to(targets.dtype)
    return (answers == targets).to(outputs.dtype).flatten(1).mean(dim=1)


def _to(split: Split, device: torch.device) -> Split:
    return Split(inputs=split.inputs.to(device), targets=split.targets.to(device))
