"""Other uses of a run's budget: the comparisons that ``Experiment.compare`` names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from raytune_rl.controller.policies import Cosine, Fixed
from raytune_rl.ensemble.finishing import Judged, delivery_of, judged_ensemble
from raytune_rl.experiment import Experiment
from raytune_rl.records import Value
from raytune_rl.rundir import layout
from raytune_rl.rundir.layout import RunDirectory
from raytune_rl.rundir.summary import Comparison, comparison_of
from raytune_rl.runs import composition
from raytune_rl.runs.trained import TrainedPopulation, TrainPopulation

if TYPE_CHECKING:
    from raytune_rl.ensemble.delivery import Delivered

HAND_DEFAULTS: Mapping[str, float] = {
    "learning_rate": 1e-3,
    "weight_decay": 1e-4,
    "dropout": 0.0,
    "label_smoothing": 0.0,
    "augmentation": 0.0,
    "momentum": 0.9,
    "batch_size": 64,
    "frozen_layers": 0,
}
SGD_LEARNING_RATE = 0.1

NAMES: Mapping[str, str] = {"random": "random search", "deep-ensemble": "a deep ensemble"}


def compared(experiment: Experiment, directory: RunDirectory, train: TrainPopulation) -> Comparison | None:
    """What ``experiment.compare`` reached with the same budget; None if it was interrupted or reached nothing."""
    return (_random_search if experiment.compare == "random" else _deep_ensemble)(experiment, directory, train)


def delivered_by(experiment: Experiment, trained: TrainedPopulation) -> Delivered | None:
    """The model that the run delivers, or that a refit starts from, if it is more than the best checkpoint
    (``Experiment.average``); else None. A replay always delivers its best checkpoint."""
    if not experiment.average or trained.controller.policy.requirements.prescribed is not None:
        return None
    return delivery_of(
        experiment.candidate,
        trained.states,
        metric=experiment.metric,
        mode=experiment.mode,
        kind=composition.declared_kind(experiment),
        plain=experiment.refit,
    )


def ensemble_of(experiment: Experiment, trained: TrainedPopulation, segments: pd.DataFrame) -> Judged | None:
    """The ensemble of a population, built by the experiment's settings; None if there can be none."""
    return judged_ensemble(
        experiment.ensemble,
        experiment.candidate,
        trained.states,
        segments,
        metric=experiment.metric,
        mode=experiment.mode,
        seed=experiment.seed,
    )


def _random_search(experiment: Experiment, directory: RunDirectory, train: TrainPopulation) -> Comparison | None:
    """The same candidate and number of segments, with random values that never change. Judged by its best checkpoint,
    since that is what tools for random search deliver."""
    inside = directory.inside(layout.RANDOM_SEARCH)
    trained = train(_static(experiment, Fixed()), inside, random_points(experiment))
    if trained.interrupted:
        return None
    return comparison_of(
        inside.read_table(layout.SEGMENTS), metric=experiment.metric, mode=experiment.mode, test=trained.test()
    )


def _deep_ensemble(experiment: Experiment, directory: RunDirectory, train: TrainPopulation) -> Comparison | None:
    """Members that differ in their seeds only (Lakshminarayanan et al. 2017), with ``hand_default`` values under a
    cosine. Their ensemble is built by the experiment's own settings."""
    inside = directory.inside(layout.DEEP_ENSEMBLE)
    points = [hand_default(experiment)] * experiment.population
    trained = train(_static(experiment, Cosine()), inside, points)
    if trained.interrupted:
        return None
    segments = inside.read_table(layout.SEGMENTS)
    ensemble = ensemble_of(experiment, trained, segments)
    return Comparison(
        name="deep ensemble",
        value=math.nan if ensemble is None else ensemble.value,
        metrics={} if ensemble is None else ensemble.metrics,
        segments=len(segments),
        train_s=float(segments["seconds"].sum()),
        of="ensemble",
    )


def _static(experiment: Experiment, policy: Fixed) -> Experiment:
    return replace(experiment, agent=policy, schedule="constant", searcher=None, start="spread", refit=False)


def random_points(experiment: Experiment) -> list[Mapping[str, Value]]:
    """Starting points of plain random search over the same space, one per member."""
    space = experiment.space()
    rng = np.random.default_rng([experiment.seed, 0xBA5E])
    return [space.decode(space.sample(rng)) for _ in range(experiment.population)]


def hand_default(experiment: Experiment) -> Mapping[str, Value]:
    """Typical values that people choose by hand, by role and within the bounds: learning rate 1e-3 for Adam and 0.1 for
    SGD, weight decay 1e-4, no other regularisation. Hyperparameters without a role get the middle of their range;
    unordered choices get their first option."""
    defaults = dict(HAND_DEFAULTS)
    if composition.optimiser_sign(experiment.candidate) < 0:
        defaults["learning_rate"] = SGD_LEARNING_RATE
    values: dict[str, Value] = {}
    for h in experiment.space():
        try:
            values[h.name] = h.decode(h.encode(defaults[h.role]))
        except (KeyError, ValueError):  # no role, or a choice without that option
            values[h.name] = h.decode(0.5 if h.is_ordered else 0.0)
    return values
