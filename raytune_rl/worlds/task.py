"""What a world is made of: a torch task, its search space, and how long its members train."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from raytune_rl.hyperparameters import SearchSpace
from raytune_rl.population.optimisers import OptimizerName
from raytune_rl.population.packed.losses import LossName
from raytune_rl.population.predictions import Sample
from raytune_rl.population.splits import Splits


@dataclass(frozen=True, kw_only=True, eq=False)
class WorldTask:
    """One task, ready to be trained many times over.

    Attributes:
        name: says what it is.
        splits: train, validation and test. Test is for rewards and evaluation; a controller never sees it.
        network: makes a network; its initial weights come from torch's global generator.
        loss: name of the loss.
        optimizer: name of the optimiser.
        batch_size: examples per step.
        segment_length: optimiser steps per segment.
        space: the hyperparameters. Each has the role ``learning_rate``, ``weight_decay``, ``momentum``, ``dropout`` or
            ``label_smoothing``, or one of these as its name.
    """

    name: str
    splits: Splits
    network: Callable[[], nn.Module]
    loss: LossName
    optimizer: OptimizerName
    batch_size: int
    segment_length: int
    space: SearchSpace

    def sample(self) -> Sample:
        """The validation examples that members predict if the objective is the ensemble."""
        return Sample.of(self.loss, self.splits.validation.targets)

    @property
    def optimiser_sign(self) -> float:
        """The feature ``optimiser`` of ``ObservationSpec``."""
        return -1.0 if self.optimizer == "sgd" else 1.0
