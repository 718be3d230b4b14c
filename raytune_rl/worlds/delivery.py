"""The model that each population of a cohort would deliver if it ended now, as a run does (``ensemble.delivery``).

It is an average of the members' best and present weights (``combining.soups``), calibrated if the task is a
classification. Both are chosen on the validation split. Training is not affected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from raytune_rl.combining.calibration import Calibration, calibration_of
from raytune_rl.combining.losses import Floats, comparable
from raytune_rl.combining.soups import soup_shares
from raytune_rl.population.calibrating import calibrated
from raytune_rl.population.packed.weights import Weights
from raytune_rl.population.predictions import Sample
from raytune_rl.worlds.cohort import Cohort


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """The results of delivered models: validation loss, test loss and test accuracy (NaN for a regression), arrays of
    one shape. Losses are infinite for a population whose members have had no finite one."""

    validation: np.ndarray
    test: np.ndarray
    accuracy: np.ndarray

    @classmethod
    def stack(cls, parts: Sequence[Delivered]) -> Delivered:
        """The results of several points in time, along a new last axis."""
        return cls(
            validation=np.stack([part.validation for part in parts], axis=-1),
            test=np.stack([part.test for part in parts], axis=-1),
            accuracy=np.stack([part.accuracy for part in parts], axis=-1),
        )

    @classmethod
    def joined(cls, parts: Sequence[Delivered]) -> Delivered:
        """The results of several groups of populations, concatenated along the first axis."""
        return cls(
            validation=np.concatenate([part.validation for part in parts]),
            test=np.concatenate([part.test for part in parts]),
            accuracy=np.concatenate([part.accuracy for part in parts]),
        )


def deliver(cohort: Cohort, members: int) -> Delivered:
    """The results of the G populations of ``members`` each that make up the cohort: arrays of shape (G,).

    Beside every member, at most 45 averages per population are evaluated on the validation split, three at a time.
    """
    models = averages(cohort, members)
    return judged(cohort, models, cohort.outputs(cohort.task.splits.validation, models))


def averages(cohort: Cohort, members: int) -> Weights:
    """The average that each of the G populations of ``members`` each would deliver: G models."""
    validation = cohort.task.splits.validation
    present = comparable(cohort.losses(cohort.outputs(validation), validation))
    groups = [slice(first, first + members) for first in range(0, len(cohort), members)]
    return Weights.stack([_population_average(cohort, group, present) for group in groups])


def judged(cohort: Cohort, models: Weights, outputs: torch.Tensor) -> Delivered:
    """The results of G models, calibrated by ``outputs``, which are predicted for the validation split, (G, N, ...)."""
    validation, test = cohort.task.splits.validation, cohort.task.splits.test
    assert test is not None
    calibrations = _calibrations(cohort, outputs)
    loss = comparable(cohort.losses(_calibrated(cohort, outputs, calibrations), validation))
    test_loss, accuracy = cohort.judge(_calibrated(cohort, cohort.outputs(test, models), calibrations), test)
    return Delivered(validation=loss, test=comparable(test_loss), accuracy=accuracy)


def _population_average(cohort: Cohort, members: slice, present: np.ndarray) -> Weights:
    """The average that one population would deliver, as one model.

    ``present`` are the present validation losses of all members of the cohort, (K,).
    """
    best, best_losses = cohort.best
    candidates = Weights.stack([best.take(members), cohort.present.take(members)])
    best_parameters, present_parameters = candidates.parameters.chunk(2)
    same_parameters = (best_parameters == present_parameters).all(dim=1).cpu().numpy()
    same = same_parameters & (best_losses[members] == present[members])
    # An infinite loss excludes a candidate: a member whose present weights are its best ones must not count twice.
    losses = np.concatenate([best_losses[members], np.where(same, np.inf, present[members])])
    validation = cohort.task.splits.validation

    def average(shares: Floats) -> Weights:
        return candidates.averages(torch.as_tensor(shares, device=candidates.parameters.device))

    def judge(shares: Floats) -> np.ndarray:
        return cohort.losses(cohort.outputs(validation, average(shares)), validation)

    if not np.isfinite(losses).any():
        return cohort.present.take(members).take(slice(0, 1))
    return average(soup_shares(losses, judge)[None])


def _calibrations(cohort: Cohort, outputs: torch.Tensor) -> list[Calibration]:
    """A calibration for each of G models, from their ``outputs`` (G, N, ...) for the validation split."""
    loss, targets = cohort.task.loss, cohort.task.splits.validation.targets
    if loss == "mse":
        return [Calibration()] * len(outputs)
    sample = Sample.of(loss, targets, limit=targets.numel())
    return [
        calibration_of(shares, sample.evaluation_targets.targets) if np.isfinite(shares).all() else Calibration()
        for shares in sample.predictions(outputs)
    ]


def _calibrated(cohort: Cohort, outputs: torch.Tensor, calibrations: Sequence[Calibration]) -> torch.Tensor:
    """The ``outputs`` of G models, (G, N, ...), each calibrated."""
    binary = cohort.task.loss == "binary_cross_entropy"
    pairs = zip(outputs, calibrations, strict=True)
    return torch.stack([calibrated(of_model, calibration, binary=binary) for of_model, calibration in pairs])
