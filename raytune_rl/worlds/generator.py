"""Draws training tasks of many kinds, so that a controller cannot learn any of them by heart.

Sizes, noise, widths, depths, activations, optimisers, batch sizes, initial scales and horizons are all drawn. So good
learning rates span orders of magnitude, and both under- and overfitting occur. A task is a function of its number;
``META_TRAIN`` and ``META_VALIDATION`` are disjoint ranges of numbers. ``real_train.py`` lists what each real data set
is used for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from raytune_rl.hyperparameters import Float, Role, SearchSpace
from raytune_rl.population.optimisers import OptimizerName
from raytune_rl.worlds.data import draw_data
from raytune_rl.worlds.draws import log_uniform
from raytune_rl.worlds.networks import draw_network
from raytune_rl.worlds.task import WorldTask

META_TRAIN: Final = range(0, 2**31)
META_VALIDATION: Final = range(2**31, 2**31 + 64)
"""Numbers of the tasks that a controller learns from, and of those that are used to choose between its versions."""

ENSEMBLES: Final = 0.35
"""The share of worlds whose objective is the ensemble; in the others it is the best single model. One controller learns
both."""


@dataclass(frozen=True, kw_only=True)
class World:
    """A task, and the population that trains on it.

    Attributes:
        number: of the task.
        task: what is learned.
        members: size of the population.
        segments: length of a member's training.
        copy_every: every how many segments weights may be copied.
        ensemble: whether the objective is the population's ensemble instead of its best model.
    """

    number: int
    task: WorldTask
    members: int
    segments: int
    copy_every: int
    ensemble: bool = False


def make_world(number: int) -> World:
    """The world with this number: the same one on every machine that has the same versions of numpy and torch."""
    rng = np.random.default_rng([number, 0x3A5C])
    data = draw_data(rng, real=number not in META_VALIDATION)  # real data is for meta-training only
    regression = data.outputs == 1
    optimizer: OptimizerName = str(rng.choice(["sgd", "adam", "adamw"], p=[0.45, 0.4, 0.15]))  # type: ignore[assignment]
    task = WorldTask(
        name=f"{data.kind}-{number}",
        splits=data.splits,
        network=draw_network(rng, data.features, data.outputs, family=data.family),
        loss="mse" if regression else "cross_entropy",
        optimizer=optimizer,
        batch_size=int(min(rng.choice([16, 32, 64]), len(data.splits.train))),
        segment_length=int(log_uniform(rng, 5, 30)),
        space=_space(rng, regression=regression),
    )
    return populated(number, task, rng)


def populated(number: int, task: WorldTask, rng: np.random.Generator) -> World:
    """``task`` with a random population."""
    return World(
        number=number,
        task=task,
        members=int(rng.choice([4, 8, 8, 16])),
        segments=int(rng.choice([8, 12, 16, 20, 20, 24])),
        copy_every=int(rng.choice([1, 2, 2, 3])),
        ensemble=bool(rng.random() < ENSEMBLES),
    )


def _space(rng: np.random.Generator, *, regression: bool) -> SearchSpace:
    """A search space with the learning rate and most of the other hyperparameters, in ranges of random width. Now and
    then a hyperparameter has no role."""

    def role(name: Role) -> Role:
        return "none" if rng.random() < 0.05 else name

    lower = 10 ** rng.uniform(-5.5, -3.5)
    floats = [
        Float(name="learning_rate", role="learning_rate", lower=lower, upper=10 ** rng.uniform(-0.7, 0.3), log=True)
    ]
    if rng.random() < 0.8:
        ends = 10 ** rng.uniform(-6.5, -4.5), 10 ** rng.uniform(-2.0, -0.7)
        floats.append(Float(name="weight_decay", role=role("weight_decay"), lower=ends[0], upper=ends[1], log=True))
    if rng.random() < 0.8:
        floats.append(Float(name="dropout", role=role("dropout"), lower=0.0, upper=float(rng.uniform(0.3, 0.7))))
    if not regression and rng.random() < 0.7:
        upper = float(rng.uniform(0.15, 0.4))
        floats.append(Float(name="label_smoothing", role=role("label_smoothing"), lower=0.0, upper=upper))
    if rng.random() < 0.25:
        floats.append(Float(name="momentum", role="momentum", lower=0.5, upper=0.98))
    order = rng.permutation(len(floats))
    return SearchSpace(tuple(floats[index] for index in order))
