"""Trains K members of one task together, segment by segment, and says of each what a real trial would report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from raytune_rl.population.packed.losses import LossName
from raytune_rl.population.packed.population import PackedPopulation
from raytune_rl.population.splits import Split
from raytune_rl.records import Value
from raytune_rl.worlds.task import WorldTask

PROBES = 4
"""Steps per segment whose gradient and update are measured."""

SETTINGS = ("learning_rate", "weight_decay", "momentum", "dropout", "label_smoothing")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a segment gave, an array of shape (K,) each; ``accuracy`` is NaN where there are no classes."""

    validation_loss: np.ndarray
    validation_accuracy: np.ndarray
    train_loss: np.ndarray
    loss_slope: np.ndarray
    loss_noise: np.ndarray
    grad_norm: np.ndarray
    update_norm: np.ndarray


class Cohort:
    """K members under training.

    Args:
        task: what they learn.
        streams: shape (K,): members with the same number start from the same weights and see the same batches, so that
            what differs between them comes from their decisions alone.
        seed: all randomness derives from it.
        device: where it happens.
    """

    def __init__(self, task: WorldTask, streams: Sequence[int], *, seed: int, device: str = "cpu") -> None:
        self.task = task
        self._device = torch.device(device)
        self._streams = torch.as_tensor(list(streams), device=self._device)
        self._distinct = int(self._streams.max()) + 1
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
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
        self.best_loss = np.full(len(streams), np.inf)

    def __len__(self) -> int:
        return len(self._population)

    def apply(self, values: Sequence[Mapping[str, Value]]) -> None:
        """Every member's hyperparameters, by name."""
        for hyperparameter in self.task.space:
            name = hyperparameter.role if hyperparameter.role in SETTINGS else hyperparameter.name
            setting: torch.Tensor = getattr(self._population, name)
            setting.copy_(torch.tensor([float(value[hyperparameter.name]) for value in values]))

    def take(self, targets: Sequence[int], sources: Sequence[int], from_best: Sequence[bool]) -> None:
        """Members ``targets`` go on from the weights of ``sources``: their present ones or their best checkpoints."""
        if targets:
            self._population.take(targets, sources, from_best, self._best)

    def train(self) -> Measured:
        """One segment of every member, and its validation."""
        task, population = self.task, self._population
        losses: list[torch.Tensor] = []
        gradients: list[torch.Tensor] = []
        updates: list[torch.Tensor] = []
        every = max(1, task.segment_length // PROBES)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=self._generator)))
            for step in range(task.segment_length):
                rows = self._rows(min(task.batch_size, len(self._train)))
                before = population.parameters.clone() if step % every == 0 else None
                losses.append(population.step(self._train.inputs[rows], self._train.targets[rows]))
                if before is not None:
                    gradients.append(population.gradient_norms())
                    moved = torch.linalg.vector_norm(population.parameters - before, dim=1)
                    updates.append(moved / (torch.linalg.vector_norm(before, dim=1) + 1e-12))
        loss, accuracy = self.score(self._validation)
        better = np.nan_to_num(loss, nan=np.inf) < self.best_loss
        self.best_loss = np.where(better, loss, self.best_loss)
        population.keep(torch.as_tensor(better, device=self._device), self._best)
        curve = torch.stack(losses).double().cpu().numpy()
        mean, slope, noise = _curve(curve)
        return Measured(
            validation_loss=loss,
            validation_accuracy=accuracy,
            train_loss=mean,
            loss_slope=slope,
            loss_noise=noise,
            grad_norm=torch.stack(gradients).mean(0).cpu().numpy(),
            update_norm=torch.stack(updates).mean(0).cpu().numpy(),
        )

    def score(self, split: Split, *, best: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Loss and accuracy of all members on ``split``: as they are, or their best checkpoints."""
        outputs = self._population.outputs(split.inputs.to(self._device), self._best if best else None)
        loss, accuracy = _scores(self.task.loss, outputs, split.targets.to(self._device))
        return loss.double().cpu().numpy(), accuracy.double().cpu().numpy()

    def _rows(self, size: int) -> torch.Tensor:
        """The next ``size`` examples of every member, without replacement, epoch after epoch: (K, size)."""
        while self._order.shape[1] < size:
            draw = torch.rand(self._distinct, len(self._train), generator=self._generator, device=self._device)
            self._order = torch.cat([self._order, draw.argsort(dim=1)], dim=1)
        rows, self._order = self._order[:, :size], self._order[:, size:]
        return rows[self._streams]


def _scores(loss: LossName, outputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean loss and accuracy, (K,) each, of outputs (K, N, ...) for the same targets."""
    if loss == "cross_entropy":
        logs = F.log_softmax(outputs, dim=2)
        chosen = targets.view(1, -1, 1).expand(len(outputs), -1, 1)
        accuracy = (outputs.argmax(dim=2) == targets).to(outputs.dtype).mean(dim=1)
        return -logs.gather(2, chosen).mean(dim=(1, 2)), accuracy
    off = outputs - targets
    return (off * off).flatten(1).mean(dim=1), torch.full_like(outputs.flatten(1)[:, 0], float("nan"))


def _curve(losses: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, slope of the logarithm, and relative noise around that trend, of losses (steps, K)."""
    mean = losses.mean(axis=0)
    if len(losses) < 2:
        return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    time = np.linspace(-0.5, 0.5, len(losses))
    with np.errstate(all="ignore"):
        logs = np.log(losses)
        slope = time @ logs / (time @ time)
        trend = np.exp(logs.mean(axis=0) + np.outer(time, slope))
        noise = np.std(losses - trend, axis=0) / mean
    return mean, slope, noise


def _to(split: Split, device: torch.device) -> Split:
    return Split(inputs=split.inputs.to(device), targets=split.targets.to(device))
