"""The validation split of a task, on which what a run delivers is chosen and calibrated: its model, its ensemble."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import nn

from raytune_rl.combining.calibration import (
    Calibration,
    brier_score,
    calibration_of,
    cost_of_doubt,
    expected_calibration_error,
)
from raytune_rl.combining.losses import Array, Evidence, Kind
from raytune_rl.ensemble.links import Link, answers, predictions, read_as, task_of
from raytune_rl.population.calibrating import calibrated
from raytune_rl.population.candidate import State
from raytune_rl.population.evaluation import measure, outputs_of
from raytune_rl.population.export import restore
from raytune_rl.population.predictions import counted
from raytune_rl.population.refit_task import LOSS
from raytune_rl.population.splits import CPU, Split, load_splits
from raytune_rl.population.torch_task import TorchTask
from raytune_rl.records import Mode

EXAMPLE_ROWS: Final = 16
"""Rows whose outputs tell what kind of task it is."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How a task's outputs are read.

    Attributes:
        kind: of the task.
        link: how they are averaged.
        probabilities: how they become those that are calibrated, see ``links.read_as``.
    """

    kind: Kind
    link: Link
    probabilities: Link | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """How outputs are calibrated, and what they are worth then.

    Attributes:
        calibration, binary: see ``population.calibrating.calibrated``.
        metrics: the task's own on validation, and for probabilities ``validation_ece`` and ``validation_brier``.
        reading: of the outputs; None where loss and data do not tell it.
    """

    calibration: Calibration
    binary: bool
    metrics: Mapping[str, float]
    reading: Reading | None


class ValidationSplit:
    """What networks and outputs are worth on the validation split of a task, on the CPU.

    Args:
        kind: of the task, where the user has declared one (``Ensemble.kind``).
    """

    def __init__(self, task: TorchTask, kind: Kind | None = None) -> None:
        self.task, self.declared = task, kind
        self.split = load_splits(task.data, CPU).validation

    @property
    def example(self) -> torch.Tensor:
        """The first rows of the inputs."""
        return self.split.inputs[:EXAMPLE_ROWS]

    def network(self, state: State) -> nn.Module:
        return restore(self.task.network, state)

    def outputs(self, network: nn.Module) -> torch.Tensor:
        return outputs_of(network, self.split, device=CPU)

    def measured(self, outputs: torch.Tensor, split: Split | None = None) -> dict[str, float]:
        """Loss and metrics of outputs for the rows of ``split``, by default all of them."""
        loss, metrics = self.task.loss, self.task.metrics
        return measure(outputs, split or self.split, loss=loss, metrics=metrics, prefix="validation")

    def reading(self, outputs: torch.Tensor, targets: torch.Tensor) -> Reading | None:
        """How outputs for these targets are read, told by the first rows; None where loss and data do not tell."""
        loss = self.task.loss
        known = task_of(loss, outputs[:EXAMPLE_ROWS], targets[:EXAMPLE_ROWS], self.declared)
        return None if known is None else Reading(*known, read_as(loss, *known))

    def evidence(self, outputs: torch.Tensor, reading: Reading) -> Evidence:
        """Of one model's outputs for all rows."""
        targets = target_array(self.task, self.split, reading)
        return Evidence.of(predictions(outputs, reading.link)[None], targets, reading.kind)

    def calibrated(
        self,
        outputs: torch.Tensor,
        *,
        metric: str,
        mode: Mode,
        split: Split | None = None,
        wanted: bool = True,
    ) -> Calibrated:
        """How a model that says ``outputs`` is calibrated. As it is where the task's loss or the experiment's metric
        would become worse: label smoothing and class weights ask for other probabilities than the true ones. The loss
        may, by what doubting few rows costs.

        Args:
            outputs: for the rows of ``split``, by default the validation split; averaged ones, if of an ensemble.
            metric, mode: of the experiment.
            wanted: whether to calibrate at all.
        """
        split = split or self.split
        plain = self.measured(outputs, split)
        reading = self.reading(outputs, split.targets)
        if reading is None or reading.probabilities is None:
            return Calibrated(calibration=Calibration(), binary=False, metrics=plain, reading=reading)
        link = reading.probabilities
        targets = target_array(self.task, split, reading)
        binary = link == "sigmoid"
        if wanted:
            calibration = calibration_of(predictions(outputs, link), targets)
            changed = calibrated(outputs, calibration, binary=binary)
            metrics = self.measured(changed, split)
            allowed = cost_of_doubt(int((targets >= 0).sum()))
            if _no_worse(metrics, plain, metric=metric, mode=mode, allowed=allowed):
                metrics = _joined(metrics, probability_scores(changed, targets, link, "validation"))
                return Calibrated(calibration=calibration, binary=binary, metrics=metrics, reading=reading)
        metrics = _joined(plain, probability_scores(outputs, targets, link, "validation"))
        return Calibrated(calibration=Calibration(), binary=False, metrics=metrics, reading=reading)


def _no_worse(
    metrics: Mapping[str, float], plain: Mapping[str, float], *, metric: str, mode: Mode, allowed: float
) -> bool:
    if not metrics[LOSS] <= plain[LOSS] + allowed:
        return False
    if metric == LOSS or metric not in plain:
        return True
    sign = 1.0 if mode == "min" else -1.0
    return sign * metrics[metric] <= sign * plain[metric]


def target_array(task: TorchTask, split: Split, reading: Reading) -> Array:
    """The targets of a split as they belong to ``links.predictions``, negative where the task's loss ignores them."""
    return answers(counted(split.targets, task.loss), reading.kind, reading.probabilities or reading.link)


def probability_scores(outputs: torch.Tensor, targets: Array, link: Link, prefix: str) -> dict[str, float]:
    """``<prefix>_ece`` and ``<prefix>_brier`` of outputs that are read as probabilities by ``link``, of each class,
    token or match that counts; empty where none does."""
    kept = targets >= 0
    if not kept.any():
        return {}
    shares = predictions(outputs, link)[kept]
    return {
        f"{prefix}_ece": expected_calibration_error(shares, targets[kept]),
        f"{prefix}_brier": brier_score(shares, targets[kept]),
    }


def on_test_split(model: nn.Module, task: TorchTask, reading: Reading | None) -> dict[str, float]:
    """What a model is worth on the test split; empty where there is none. To be called once, at the end."""
    split = load_splits(task.data, CPU).test
    if split is None:
        return {}
    outputs = outputs_of(model, split, device=CPU)
    metrics = measure(outputs, split, loss=task.loss, metrics=task.metrics, prefix="test")
    if reading is None or reading.probabilities is None:
        return metrics
    targets = target_array(task, split, reading)
    return _joined(metrics, probability_scores(outputs, targets, reading.probabilities, "test"))


def _joined(metrics: Mapping[str, float], scores: Mapping[str, float]) -> dict[str, float]:
    """Both; where the user has a metric of the same name, that one."""
    return {**metrics, **scores, **metrics}
