"""Draws training tasks: many kinds, so that a controller cannot learn any of them by heart.

Good learning rates span orders of magnitude and both under- and overfitting occur, because sizes, noise, widths,
depths, activations, optimisers, batch sizes, initial scales and horizons are all drawn. A task is a function of its
number: ``META_TRAIN`` and ``META_VALIDATION`` are ranges of numbers that do not meet. Real data are in ``real.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import torch
from torch import nn

from raytune_rl.hyperparameters import Float, Role, SearchSpace
from raytune_rl.population.optimisers import OptimizerName
from raytune_rl.population.packed.losses import LossName
from raytune_rl.population.splits import Split, Splits
from raytune_rl.worlds.task import WorldTask

META_TRAIN: Final = range(0, 2**31)
META_VALIDATION: Final = range(2**31, 2**31 + 32)
"""Numbers of the tasks that a controller learns from, and of those by which versions of it are chosen."""

TEST_ROWS: Final = 512
"""Held-out rows, which exist in any number here; they pay the agent, so that validation noise does not."""

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}


@dataclass(frozen=True, kw_only=True)
class World:
    """A task, and the population that trains on it.

    Attributes:
        number: of the task.
        task: what is learned.
        members: of a population.
        segments: length of a member's training.
        copy_every: copies are possible at every n-th segment.
    """

    number: int
    task: WorldTask
    members: int
    segments: int
    copy_every: int


def make_world(number: int) -> World:
    """The world of that number; the same one on every machine with this version of numpy and torch."""
    rng = np.random.default_rng([number, 0x3A5C])
    kind = str(rng.choice(["clusters", "teacher", "templates", "xor", "regression"], p=[0.25, 0.25, 0.2, 0.1, 0.2]))
    classes = 1 if kind == "regression" else int(rng.integers(2, 11))
    features = int(_log_uniform(rng, 16 if kind == "templates" else 4, 64))
    rows = int(_log_uniform(rng, 60, 1500))
    validation = int(np.clip(rows * rng.uniform(0.2, 0.5), 30, 300))
    inputs, targets = _data(kind, rng, rows + validation + TEST_ROWS, features, classes)
    splits = _splits(inputs, targets, rows, validation)
    optimizer: OptimizerName = str(rng.choice(["sgd", "adam", "adamw"], p=[0.45, 0.4, 0.15]))  # type: ignore[assignment]
    loss: LossName = "mse" if kind == "regression" else "cross_entropy"
    members = int(rng.choice([4, 8, 8, 16]))
    return World(
        number=number,
        task=WorldTask(
            name=f"{kind}-{number}",
            splits=splits,
            network=_network(rng, features, classes, convolution=kind == "templates" and rng.random() < 0.15),
            loss=loss,
            optimizer=optimizer,
            batch_size=int(min(rng.choice([16, 32, 64]), rows)),
            segment_length=int(_log_uniform(rng, 5, 30)),
            space=_space(rng, regression=kind == "regression"),
        ),
        members=members,
        segments=int(rng.choice([8, 12, 16, 20, 20, 24])),
        copy_every=int(rng.integers(3, 6)),
    )


def _data(kind: str, rng: np.random.Generator, rows: int, features: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    noise = float(rng.choice([0.0, 0.0, 0.05, 0.1, 0.2, 0.3]))
    if kind == "regression":
        inputs = rng.standard_normal((rows, features))
        targets = _teacher(rng, inputs, 1)
        targets = targets / (targets.std() + 1e-9) + rng.uniform(0.0, 1.0) * rng.standard_normal(targets.shape)
        return inputs, targets / (targets.std() + 1e-9)
    if kind == "clusters":
        per_class = int(rng.integers(1, 4))
        centres = rng.standard_normal((classes * per_class, features)) * rng.uniform(0.5, 2.0)
        which = rng.integers(len(centres), size=rows)
        inputs, targets = centres[which] + rng.standard_normal((rows, features)), which % classes
    elif kind == "templates":
        templates = _smooth(rng, rng.standard_normal((classes, features)))
        targets = rng.integers(classes, size=rows)
        shifts = rng.integers(-(features // 6 + 1), features // 6 + 2, size=rows)
        inputs = np.stack([np.roll(templates[t], s) for t, s in zip(targets, shifts, strict=True)])
        inputs = inputs * rng.uniform(0.7, 1.3, (rows, 1)) + rng.uniform(0.1, 0.6) * rng.standard_normal(inputs.shape)
    elif kind == "xor":
        inputs = rng.standard_normal((rows, features))
        bits = (inputs[:, : int(rng.integers(2, 4))] > 0).astype(int)
        targets = bits @ (2 ** np.arange(bits.shape[1])) % max(2, min(classes, 4))
        targets = targets % classes
    else:
        inputs = rng.standard_normal((rows, features))
        targets = (_teacher(rng, inputs, classes) * rng.uniform(1.0, 3.0)).argmax(axis=1)
    flipped = rng.random(rows) < noise
    return inputs, np.where(flipped, rng.integers(classes, size=rows), targets)


def _teacher(rng: np.random.Generator, inputs: np.ndarray, outputs: int) -> np.ndarray:
    width = int(rng.choice([4, 16, 64]))
    hidden = np.tanh(inputs @ rng.standard_normal((inputs.shape[1], width)) * rng.uniform(0.5, 2.0) / 4)
    return np.asarray(hidden @ rng.standard_normal((width, outputs)))


def _smooth(rng: np.random.Generator, signals: np.ndarray) -> np.ndarray:
    kernel = np.hanning(int(rng.integers(3, 8)) + 2)
    smooth = np.stack([np.convolve(signal, kernel / kernel.sum(), mode="same") for signal in signals])
    return np.asarray(smooth / (smooth.std(axis=1, keepdims=True) + 1e-9))


def _splits(inputs: np.ndarray, targets: np.ndarray, rows: int, validation: int) -> Splits:
    mean, spread = inputs[:rows].mean(axis=0), inputs[:rows].std(axis=0) + 1e-6
    x = torch.from_numpy(((inputs - mean) / spread).astype(np.float32))
    y = torch.from_numpy(targets.astype(np.float32 if targets.dtype.kind == "f" else np.int64))
    ends = [0, rows, rows + validation, len(x)]
    parts = [Split(inputs=x[a:b], targets=y[a:b]) for a, b in pairwise(ends)]
    return Splits(train=parts[0], validation=parts[1], test=parts[2])


def _network(rng: np.random.Generator, features: int, outputs: int, *, convolution: bool) -> Callable[[], nn.Module]:
    width = int(_log_uniform(rng, 8, 64))
    depth = int(rng.integers(1, 4))
    activation = _ACTIVATIONS[str(rng.choice(["tanh", "relu"], p=[0.3, 0.7]))]
    gain = float(_log_uniform(rng, 0.4, 2.5)) if rng.random() < 0.5 else 1.0
    channels = int(rng.choice([8, 16]))

    def build() -> nn.Module:
        layers: list[nn.Module] = []
        size = features
        if convolution:
            length = features // 2
            layers += [nn.Unflatten(1, (1, features)), nn.Conv1d(1, channels, 5, padding=2), nn.ReLU(), nn.MaxPool1d(2)]
            layers += [nn.Flatten()]
            size = channels * length
        for _ in range(depth):
            layers += [nn.Linear(size, width), activation(), nn.Dropout(0.0)]
            size = width
        layers.append(nn.Linear(size, outputs))
        network = nn.Sequential(*layers)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(gain)
        return network

    return build


def _space(rng: np.random.Generator, *, regression: bool) -> SearchSpace:
    """The learning rate always, most of the others, in ranges of varying width; now and then a role is not told."""

    def role(name: Role) -> Role:
        return "none" if rng.random() < 0.05 else name

    lower = 10 ** rng.uniform(-5.5, -3.5)
    found = [
        Float(name="learning_rate", role="learning_rate", lower=lower, upper=10 ** rng.uniform(-0.7, 0.3), log=True)
    ]
    if rng.random() < 0.8:
        ends = 10 ** rng.uniform(-6.5, -4.5), 10 ** rng.uniform(-2.0, -0.7)
        found.append(Float(name="weight_decay", role=role("weight_decay"), lower=ends[0], upper=ends[1], log=True))
    if rng.random() < 0.8:
        found.append(Float(name="dropout", role=role("dropout"), lower=0.0, upper=float(rng.uniform(0.3, 0.7))))
    if not regression and rng.random() < 0.7:
        upper = float(rng.uniform(0.15, 0.4))
        found.append(Float(name="label_smoothing", role=role("label_smoothing"), lower=0.0, upper=upper))
    if rng.random() < 0.25:
        found.append(Float(name="momentum", role="momentum", lower=0.5, upper=0.98))
    order = rng.permutation(len(found))
    return SearchSpace(tuple(found[index] for index in order))


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))
