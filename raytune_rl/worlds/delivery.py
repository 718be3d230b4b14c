"""The model that each population of a cohort would deliver if it ended now, as a run does (``ensemble.delivery``).

It is an average of the members' best and present weights, by ``combining.soups``, and for a classification calibrated;
validation decides on both. Training goes on as if nobody had asked.
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
    """What delivered models are worth: validation loss, test loss and test accuracy (NaN for a regression), arrays of
    one shape. Losses are infinite where nobody has had a finite one."""

    validation: np.ndarray
    test: np.ndarray
    accuracy: np.ndarray

    @classmethod
    def stack(cls, parts: Sequence[Delivered]) -> Delivered:
        """Of several times, along a new last axis."""
        return cls(
            validation=np.stack([part.validation for part in parts], axis=-1),
            test=np.stack([part.test for part in parts], axis=-1),
            accuracy=np.stack([part.accuracy for part in parts], axis=-1),
        )

    @classmethod
    def joined(cls, parts: Sequence[Delivered]) -> Delivered:
        """Of several groups of populations, one after the other along the first axis."""
        return cls(
            validation=np.concatenate([part.validation for part in parts]),
            test=np.concatenate([part.test for part in parts]),
            accuracy=np.concatenate([part.accuracy for part in parts]),
        )


def deliver(cohort: Cohort, members: int) -> Delivered:
    """Of G populations of ``members`` each, one after the other in the cohort: shape (G,).

    It takes at most 45 predictions of the validation split per population beside one of every member, three of them at
    a time.
    """
    models = averages(cohort, members)
    return judged(cohort, models, cohort.outputs(cohort.task.splits.validation, models))


def averages(cohort: Cohort, members: int) -> Weights:
    """The average that each of these populations would deliver: G models."""
    validation = cohort.task.splits.validation
    present = comparable(cohort.losses(cohort.outputs(validation), validation))
    groups = [slice(first, first + members) for first in range(0, len(cohort), members)]
    return Weights.stack([_chosen(cohort, group, present) for group in groups])


def judged(cohort: Cohort, models: Weights, said: torch.Tensor) -> Delivered:
    """What G models are worth, calibrated by what is ``said`` of the validation split, (G, N, ...)."""
    validation, test = cohort.task.splits.validation, cohort.task.splits.test
    assert test is not None
    calibrations = _calibrations(cohort, said)
    loss = comparable(cohort.losses(_calibrated(cohort, said, calibrations), validation))
    test_loss, accuracy = cohort.judge(_calibrated(cohort, cohort.outputs(test, models), calibrations), test)
    return Delivered(validation=loss, test=comparable(test_loss), accuracy=accuracy)


def _chosen(cohort: Cohort, members: slice, present: np.ndarray) -> Weights:
    """The average of one population, one model. ``present``: everybody's present losses, (K,)."""
    best, best_losses = cohort.best
    candidates = Weights.stack([best.take(members), cohort.present.take(members)])
    was, now = candidates.parameters.chunk(2)
    same = (was == now).all(dim=1).cpu().numpy() & (best_losses[members] == present[members])
    losses = np.concatenate([best_losses[members], np.where(same, np.inf, present[members])])  # no model twice
    validation = cohort.task.splits.validation

    def mixed(shares: Floats) -> Weights:
        return candidates.averages(torch.as_tensor(shares, device=candidates.parameters.device))

    def judge(shares: Floats) -> np.ndarray:
        return cohort.losses(cohort.outputs(validation, mixed(shares)), validation)

    if not np.isfinite(losses).any():
        return cohort.present.take(members).take(slice(0, 1))
    return mixed(soup_shares(losses, judge)[None])


def _calibrations(cohort: Cohort, outputs: torch.Tensor) -> list[Calibration]:
    """Of the delivered models, by their ``outputs`` (G, N, ...) for the validation split."""
    loss, targets = cohort.task.loss, cohort.task.splits.validation.targets
    if loss == "mse":
        return [Calibration()] * len(outputs)
    sample = Sample.of(loss, targets, limit=targets.numel())
    return [
        calibration_of(shares, sample.evaluation_targets.targets) if np.isfinite(shares).all() else Calibration()
        for shares in sample.predictions(outputs)
    ]


def _calibrated(cohort: Cohort, outputs: torch.Tensor, calibrations: Sequence[Calibration]) -> torch.Tensor:
    """Each model's ``outputs`` (G, N, ...), calibrated."""
    binary = cohort.task.loss == "binary_cross_entropy"
    pairs = zip(outputs, calibrations, strict=True)
    return torch.stack([calibrated(one, calibration, binary=binary) for one, calibration in pairs])
