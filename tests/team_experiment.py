"""A team of members that learns for the ensemble while it runs; tests run it as a command and kill it."""

from __future__ import annotations

from ray import tune
from torch import nn

from raytune_rl import Agent, Experiment, TorchTask, roles
from raytune_rl.tasks.wine import wine, wine_network

experiment = Experiment(
    candidate=TorchTask(wine_network, wine, loss=nn.CrossEntropyLoss(), batch_size=16),
    hyperparameters={
        "lr": roles.learning_rate(tune.loguniform(1e-4, 1e-1)),
        "dropout": roles.dropout(tune.uniform(0.0, 0.6)),
    },
    metric="validation_loss",
    mode="min",
    population=4,
    segments=40,
    segment_length=20,
    objective="ensemble",
    synchronous=True,  # learning is waited for: such a short run would be over first
    agent=Agent(agents="members", modules="role", batch=16),
    checkpoint_every=1.0,
    callbacks=None,
)
