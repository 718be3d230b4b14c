"""What is tried before Ray starts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from ray import tune

from raytune_rl import roles
from raytune_rl.runs.rehearsal import rehearse
from tests.paper_experiment import make
from tests.population.models import TASK, blobs


def test_data_that_hold_nan_are_remarked_upon(caplog: pytest.LogCaptureFixture) -> None:
    def holes() -> Any:
        train, validation, test = blobs()
        return (np.where(train[0] > 2.0, np.nan, train[0]), train[1]), validation, test

    lr = {"lr": roles.learning_rate(tune.loguniform(1e-4, 1e-1))}
    for data in (blobs, holes):
        caplog.clear()
        task = replace(TASK, data=data)
        rehearse(make(candidate=task, hyperparameters=lr, metric="validation_loss"), task)
        assert ("inputs of the train split hold NaN" in caplog.text) == (data is holes)


def test_trials_with_gpus_are_not_tried_on_the_drivers_cpu() -> None:
    def missing() -> Any:
        raise AssertionError("it must not be asked")

    lr = {"lr": roles.learning_rate(tune.loguniform(1e-4, 1e-1))}
    task = replace(TASK, data=missing)
    experiment = make(candidate=task, hyperparameters=lr, metric="validation_loss", resources={"CPU": 1, "GPU": 0.5})
    rehearse(experiment, task)
