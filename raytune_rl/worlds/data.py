"""The data of generated tasks, each drawn from a random generator: inputs (N, features) and targets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal, TypeAlias, get_args

import numpy as np
import torch

from raytune_rl.population.splits import Split, Splits
from raytune_rl.worlds import real_train
from raytune_rl.worlds.draws import log_uniform
from raytune_rl.worlds.networks import Family

Kind: TypeAlias = Literal["clusters", "teacher", "templates", "xor", "regression", "images", "sequences", "real"]

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
SHARES: Final = (0.24, 0.22, 0.15, 0.09, 0.18, 0.04, 0.04, 0.04)
"""How often each kind is drawn."""

TEST_ROWS: Final = 512
"""Rows of the test split; generated data can have any number of them. The agent is rewarded by them, so that validation
noise is not rewarded."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """A task's data.

    Attributes:
        kind: how it was made.
        splits: train, validation and test.
        outputs: how many numbers a network outputs per row: the number of classes, or 1 for a regression.
        family: the architecture that suits it.
    """

    kind: Kind
    splits: Splits
    outputs: int
    family: Family

    @property
    def features(self) -> int:
        return int(self.splits.train.inputs.shape[1])


def draw_data(rng: np.random.Generator, *, real: bool = True) -> Data:
    """Data of a random kind, size and difficulty, standardised by the training rows. If ``real`` is false, clusters are
    generated wherever a real data set is drawn."""
    kind: Kind = str(rng.choice(KINDS, p=SHARES))  # type: ignore[assignment]
    if kind == "real" and not real:
        kind = "clusters"
    rows = int(log_uniform(rng, 60, 1500 if kind not in ("images", "sequences") else 500))
    validation = int(np.clip(rows * rng.uniform(0.2, 0.5), 30, 300))
    if kind == "real":
        inputs, targets, rows, validation = _real(rng, rows, validation)
    else:
        classes = int(rng.integers(2, 11))
        inputs, targets = _generated(kind, rng, rows + validation + TEST_ROWS, classes)
    regression = targets.dtype.kind == "f"
    family: Family = {"images": "image", "sequences": "recurrent"}.get(kind, "dense")  # type: ignore[assignment]
    if kind == "templates" and rng.random() < 0.15:
        family = "convolution"
    return Data(
        kind=kind,
        splits=_splits(inputs, targets, rows, validation),
        outputs=1 if regression else int(targets.max()) + 1,
        family=family,
    )


def _generated(kind: Kind, rng: np.random.Generator, rows: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    noise = float(rng.choice([0.0, 0.0, 0.05, 0.1, 0.2, 0.3]))
    features = int(log_uniform(rng, 16 if kind == "templates" else 4, 64))
    if kind == "regression":
        return _regression(rng, rows, features)
    if kind == "clusters":
        inputs, targets = _clusters(rng, rows, features, classes)
    elif kind == "templates":
        inputs, targets = _templates(rng, rows, features, classes)
    elif kind == "xor":
        inputs, targets = _xor(rng, rows, features, classes)
    elif kind == "images":
        inputs, targets = _images(rng, rows, classes)
    elif kind == "sequences":
        inputs, targets = _sequences(rng, rows, classes)
    else:
        inputs = rng.standard_normal((rows, features))
        targets = (_teacher(rng, inputs, classes) * rng.uniform(1.0, 3.0)).argmax(axis=1)
    flipped = rng.random(rows) < noise
    return inputs, np.where(flipped, rng.integers(classes, size=rows), targets)


def _regression(rng: np.random.Generator, rows: int, features: int) -> tuple[np.ndarray, np.ndarray]:
    inputs = rng.standard_normal((rows, features))
    targets = _teacher(rng, inputs, 1)
    targets = targets / (targets.std() + 1e-9) + rng.uniform(0.0, 1.0) * rng.standard_normal(targets.shape)
    return inputs, targets / (targets.std() + 1e-9)


def _clusters(rng: np.random.Generator, rows: int, features: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    per_class = int(rng.integers(1, 4))
    centres = rng.standard_normal((classes * per_class, features)) * rng.uniform(0.5, 2.0)
    which = rng.integers(len(centres), size=rows)
    return centres[which] + rng.standard_normal((rows, features)), which % classes


def _templates(rng: np.random.Generator, rows: int, features: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """One smooth curve per class, shifted, scaled and with noise."""
    shapes = _smooth(rng, rng.standard_normal((classes, features)))
    targets = rng.integers(classes, size=rows)
    shifts = rng.integers(-(features // 6 + 1), features // 6 + 2, size=rows)
    inputs = np.stack([np.roll(shapes[t], s) for t, s in zip(targets, shifts, strict=True)])
    inputs = inputs * rng.uniform(0.7, 1.3, (rows, 1)) + rng.uniform(0.1, 0.6) * rng.standard_normal(inputs.shape)
    return inputs, targets


def _xor(rng: np.random.Generator, rows: int, features: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    inputs = rng.standard_normal((rows, features))
    bits = (inputs[:, : int(rng.integers(2, 4))] > 0).astype(int)
    targets = bits @ (2 ** np.arange(bits.shape[1])) % max(2, min(classes, 4))
    return inputs, targets % classes


def _images(rng: np.random.Generator, rows: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """One blurred pattern of 8 x 8 per class, shifted and with noise."""
    side = 8
    noise = rng.standard_normal((classes, side, side))
    patterns = np.sum([np.roll(noise, (a, b), axis=(1, 2)) for a in (-1, 0, 1) for b in (-1, 0, 1)], axis=0) / 3.0
    targets = rng.integers(classes, size=rows)
    shifts = rng.integers(-2, 3, size=(rows, 2))
    inputs = np.stack([np.roll(patterns[t], tuple(s), axis=(0, 1)) for t, s in zip(targets, shifts, strict=True)])
    return inputs.reshape(rows, -1) + rng.uniform(0.2, 1.0) * rng.standard_normal((rows, side * side)), targets


def _sequences(rng: np.random.Generator, rows: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Sine waves in three channels, with frequencies that depend on the class, a random phase and noise."""
    steps, channels = 8, 3
    frequency = rng.uniform(0.3, 1.5, (classes, channels))
    targets = rng.integers(classes, size=rows)
    phase = rng.uniform(0, 2 * math.pi, (rows, 1, 1))
    waves = np.sin(phase + np.arange(steps)[:, None] * frequency[targets][:, None, :] * 2)
    return (waves + rng.uniform(0.1, 0.6) * rng.standard_normal(waves.shape)).reshape(rows, -1), targets


def _real(rng: np.random.Generator, rows: int, validation: int) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Random rows and columns of a real data set with their classes, and the sizes of the train and validation splits.
    At least a third of the data set is left for the test split."""
    inputs, targets = (real_train.iris if rng.random() < 0.2 else real_train.photographs)()
    chosen = rng.permutation(len(inputs))
    columns = rng.permutation(inputs.shape[1])[: int(rng.integers(2, inputs.shape[1] + 1))]
    rows, validation = min(rows, len(inputs) // 2), min(validation, len(inputs) // 6)
    chosen = chosen[: rows + validation + TEST_ROWS]
    return inputs[chosen][:, np.sort(columns)], targets[chosen], rows, validation


def _teacher(rng: np.random.Generator, inputs: np.ndarray, outputs: int) -> np.ndarray:
    """What a random network with one hidden layer outputs for ``inputs``, shape (N, outputs)."""
    width = int(rng.choice([4, 16, 64]))
    hidden = np.tanh(inputs @ rng.standard_normal((inputs.shape[1], width)) * rng.uniform(0.5, 2.0) / 4)
    return np.asarray(hidden @ rng.standard_normal((width, outputs)))


def _smooth(rng: np.random.Generator, signals: np.ndarray) -> np.ndarray:
    """The signals, one per row, smoothed with a kernel of random width and scaled to a standard deviation of 1."""
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
