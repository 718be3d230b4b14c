"""A small experiment that a job can run: no agent that learns, two members."""

from __future__ import annotations

import numpy as np
from ray import tune
from torch import nn

from raytune_rl import Experiment, Random, TorchTask, roles


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))


def data() -> object:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(120, 2))
    targets = (inputs.sum(axis=1) > 0).astype(int)
    return tuple((inputs[part], targets[part]) for part in (slice(0, 60), slice(60, 90), slice(90, 120)))


experiment = Experiment(
    name="small",
    candidate=TorchTask(network, data, loss=nn.CrossEntropyLoss()),
    hyperparameters={"lr": roles.learning_rate(tune.loguniform(1e-4, 1e-1))},
    metric="validation_loss",
    mode="min",
    population=2,
    segments=3,
    segment_length=5,
    agent=Random(),
    callbacks=None,
)
