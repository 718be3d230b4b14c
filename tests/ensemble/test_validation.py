"""What is chosen on the validation split is chosen by what the task's own loss asks for."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from raytune_rl.combining.calibration import Calibration, cost_of_doubt
from raytune_rl.ensemble.building import build
from raytune_rl.ensemble.delivery import delivered_model
from raytune_rl.ensemble.settings import Ensemble
from raytune_rl.ensemble.validation import ValidationSplit, on_test_split
from raytune_rl.population.torch_task import TorchTask
from tests.ensemble.members import TASK, inputs, trained
from tests.ensemble.test_kinds import GENERATION, sentences
from tests.population.models import blobs


def cooled(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Wants outputs that are ten times as sure as the true probabilities."""
    return nn.functional.cross_entropy(0.1 * outputs, targets)


COOLED = dataclasses.replace(TASK, loss=cooled)
WEIGHTED = dataclasses.replace(TASK, loss=nn.CrossEntropyLoss(weight=torch.tensor([1.0, 1.0, 0.0])))


@pytest.mark.parametrize("metric", ["validation_loss", "validation_accuracy"])
def test_no_calibration_makes_the_tasks_loss_worse(metric: str) -> None:
    kept, segments = trained()
    same: dict[str, Any] = {"metric": metric, "mode": "min" if metric == "validation_loss" else "max"}
    allowed = cost_of_doubt(len(blobs()[1][1]))
    found, plain = (
        build(Ensemble(calibrate=wanted, kind="classification"), COOLED, kept, segments, seed=0, **same)
        for wanted in (True, False)
    )
    assert found.metrics["validation_loss"] <= plain.metrics["validation_loss"] + allowed
    alone = delivered_model(COOLED, kept, plain=True, kind="classification", **same)
    assert alone is not None
    validation = ValidationSplit(COOLED)
    uncalibrated = validation.measured(validation.outputs(validation.network(alone.state)))  # type: ignore[arg-type]
    assert alone.metrics["validation_loss"] <= uncalibrated["validation_loss"] + allowed


def padded() -> Any:
    """Sentences whose padding is class 0, and whose words are the others."""
    return tuple((given, torch.where(targets < 0, 0, 1 + targets % 4)) for given, targets in sentences())


def test_padding_has_no_part_in_the_choice() -> None:
    task = dataclasses.replace(GENERATION, data=padded, loss=nn.CrossEntropyLoss(ignore_index=0))
    outputs = inputs(60, 5, 4)
    validation = ValidationSplit(task)
    reading = validation.reading(outputs, validation.split.targets)
    assert reading is not None and reading.kind == "generation"
    (loss,) = validation.evidence(outputs, reading).losses()
    assert loss == pytest.approx(float(task.loss(outputs, validation.split.targets)), abs=0.02)  # it is smoothed
    changed = torch.cat([-outputs[..., :1], outputs[..., 1:]], dim=2)  # the first word is padding
    assert validation.evidence(changed, reading).losses()[0] == loss
    both = [validation.calibrated(said, metric="validation_loss", mode="min") for said in (outputs, changed)]
    assert both[0].calibration == both[1].calibration != Calibration()
    assert both[0].metrics["validation_ece"] == both[1].metrics["validation_ece"]


def test_classes_without_weight_have_no_part_in_it_either() -> None:
    validation = ValidationSplit(WEIGHTED)
    outputs = inputs(60, 3)
    reading = validation.reading(outputs, validation.split.targets)
    assert reading is not None
    (loss,) = validation.evidence(outputs, reading).losses()
    assert loss == pytest.approx(float(WEIGHTED.loss(outputs, validation.split.targets)), abs=0.02)


def test_both_have_the_same_figures_of_calibration() -> None:
    kept, segments = trained()
    alone = delivered_model(TASK, kept, metric="validation_loss", mode="min", plain=True)
    found = build(Ensemble(), TASK, kept, segments, metric="validation_loss", mode="min", seed=0)
    assert alone is not None
    for name in ("validation_ece", "validation_brier"):
        assert 0 <= alone.metrics[name] < 2 and 0 <= found.metrics[name] < 2
    assert set(alone.test()) == {"test_loss", "test_accuracy", "test_ece", "test_brier"}


def test_where_nothing_counts_there_are_no_figures_of_calibration() -> None:
    def nothing() -> Any:
        return tuple((np.zeros((4, 2), dtype=np.float32), np.full(4, -100)) for _ in range(3))

    task = TorchTask(TASK.network, nothing, loss=lambda outputs, targets: outputs.sum())
    validation = ValidationSplit(task, "classification")
    found = validation.calibrated(torch.zeros(4, 3), metric="validation_loss", mode="min")
    assert found.calibration == Calibration() and "validation_ece" not in found.metrics


def test_a_metric_of_the_users_keeps_its_name() -> None:
    task = dataclasses.replace(TASK, metrics={"ece": lambda outputs, targets: 7.0})
    found = ValidationSplit(task).calibrated(inputs(60, 3), metric="validation_ece", mode="min")
    assert found.metrics["validation_ece"] == 7.0 and found.metrics["validation_brier"] > 0
    assert on_test_split(trained_network(), task, found.reading)["test_ece"] == 7.0


def trained_network() -> nn.Module:
    return ValidationSplit(TASK).network(trained()[0][-1].state)
