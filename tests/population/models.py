"""Small networks and data for the tests of this folder."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from torch import nn

from raytune_rl.population.candidate import MemberContext
from raytune_rl.population.torch_member import TorchMember
from raytune_rl.population.torch_task import TorchTask
from raytune_rl.records import Value


def blobs() -> Any:
    """Three classes in the plane, 120 + 60 + 60 examples."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 3, 240)
    inputs = rng.normal(size=(240, 2)) + np.array([[0, 3], [3, 0], [-3, -3]])[targets]
    return tuple((inputs[rows], targets[rows]) for rows in (slice(0, 120), slice(120, 180), slice(180, 240)))


def mlp(dropout: float = 0.0, width: int = 16) -> nn.Module:
    return nn.Sequential(
        nn.Linear(2, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 3)
    )


TASK = TorchTask(mlp, blobs, loss=nn.CrossEntropyLoss())
START: dict[str, Value] = {"lr": 1e-2, "weight_decay": 1e-4, "dropout": 0.2, "label_smoothing": 0.1, "batch_size": 32}


def build(
    task: TorchTask = TASK, values: dict[str, Value] = START, *, member: int = 0, seed: int = 7, **changes: Any
) -> TorchMember:
    built = dataclasses.replace(task, **changes).build(MemberContext(member=member, seed=seed), values)
    assert isinstance(built, TorchMember)
    return built
