"""What else the budget of a run could have bought: the comparisons that ``Experiment.compare`` names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd

from raytune_rl import composition
from raytune_rl.controller.policies import Cosine, Fixed
from raytune_rl.ensemble.finishing import Judged, delivery_of, judged_ensemble
from raytune_rl.experiment import Experiment
from raytune_rl.rundir import layout
from raytune_rl.rundir.layout import RunDirectory
from raytune_rl.rundir.summary import Comparison, comparison_of
from raytune_rl.trained import Train, Trained

if TYPE_CHECKING:
    from raytune_rl.ensemble.delivery import Delivered

RANDOM_SEARCH, DEEP_ENSEMBLE = "random_search", "deep_ensemble"
"""Where a comparison keeps its tables and states, inside the run directory."""

NAMES: Mapping[str, str] = {"random": "random search", "deep-ensemble": "a deep ensemble"}


def compared(experiment: Experiment, directory: RunDirectory, train: Train) -> Comparison | None:
    """What ``experiment.compare`` reached with the same budget; None if it was interrupted."""
    return (_random_search if experiment.compare == "random" else _deep_ensemble)(experiment, directory, train)


def delivered_by(experiment: Experiment, trained: Trained) -> Delivered | None:
    """What the run delivers where that is more than its best checkpoint (``Experiment.average``), or what a refit
    starts from. A replay delivers what was prescribed."""
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


def ensemble_of(experiment: Experiment, trained: Trained, segments: pd.DataFrame) -> Judged | None:
    """The ensemble of a population by the experiment's settings; None where there is none to be had."""
    return judged_ensemble(
        experiment.ensemble,
        experiment.candidate,
        trained.states,
        segments,
        metric=experiment.metric,
        mode=experiment.mode,
        seed=experiment.seed,
    )


def _random_search(experiment: Experiment, directory: RunDirectory, train: Train) -> Comparison | None:
    """The same candidates for the same segments with random values that never change; its best checkpoint, which is
    what tools that search give."""
    inside = directory.inside(RANDOM_SEARCH)
    theirs = train(_static(experiment, Fixed()), inside, composition.random_points(experiment))
    if theirs.interrupted:
        return None
    return comparison_of(
        inside.read_table(layout.SEGMENTS), metric=experiment.metric, mode=experiment.mode, test=theirs.test()
    )


def _deep_ensemble(experiment: Experiment, directory: RunDirectory, train: Train) -> Comparison | None:
    """Members that differ in their seeds alone (Lakshminarayanan et al. 2017), with the hand default under a cosine; of
    them, the ensemble that the experiment's own settings make."""
    inside = directory.inside(DEEP_ENSEMBLE)
    points = [composition.hand_default(experiment)] * experiment.population
    theirs = train(_static(experiment, Cosine()), inside, points)
    if theirs.interrupted:
        return None
    segments = inside.read_table(layout.SEGMENTS)
    ensemble = ensemble_of(experiment, theirs, segments)
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
