"""An experiment of a small torch task, whole runs of which take seconds."""

from __future__ import annotations

from typing import Any

from ray import tune

from raytune_rl import PBT, Ensemble, Experiment, roles
from tests.ensemble.members import TASK


def make(**changes: Any) -> Experiment:
    settings: dict[str, Any] = {
        "candidate": TASK,
        "hyperparameters": {
            "lr": roles.learning_rate(tune.loguniform(1e-4, 1e-1)),
            "dropout": roles.dropout(tune.uniform(0.1, 0.5)),
        },
        "metric": "validation_loss",
        "mode": "min",
        "name": "blobs",
        "population": 4,
        "segments": 6,
        "segment_length": 5,
        "agent": PBT(),
        "copy_every": 2,
        "callbacks": None,
        "ensemble": Ensemble(snapshots=2),
    }
    return Experiment(**(settings | changes))
