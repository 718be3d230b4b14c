"""The refit of a run (``Experiment.refit``): the last part of its budget, on all rows.

It is a population of its own, in the run directory's ``refit/``, trained by the machinery that trains every other, so
trials, packing, checkpoints and ``--resume`` are theirs. Nobody steers it: rates follow a cosine.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from raytune_rl import composition
from raytune_rl.controller.failures import FailurePolicy
from raytune_rl.controller.policies import Cosine, Fixed
from raytune_rl.ensemble.finishing import MOST_GIB, spared
from raytune_rl.experiment import Experiment, StopRule
from raytune_rl.population.torch_task import TorchTask
from raytune_rl.rundir import layout
from raytune_rl.rundir.layout import RunDirectory
from raytune_rl.trained import Train

if TYPE_CHECKING:
    from raytune_rl.ensemble.delivery import Delivered

logger = logging.getLogger(__name__)

REFIT = "refit"
"""Where its tables and states are, inside the run directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """What a run delivers in the end, and whether the refit was interrupted before that."""

    delivered: Delivered | None
    interrupted: bool = False


def refitted(experiment: Experiment, directory: RunDirectory, before: Delivered | None, train: Train) -> Finish:
    """Train copies of what would be delivered on, and average them; ``before`` itself where that came to nothing.

    Args:
        before: what the run would deliver.
        train: trains a population in a directory of its own.
    """
    if before is None:
        logger.warning("no refit: the run has no model that could be trained on")
        return Finish(delivered=None)
    from raytune_rl.ensemble.refitting import refitted_model
    from raytune_rl.population.refitting import Refit

    copies = experiment.population
    schedule: Fixed = Cosine()
    assert isinstance(experiment.candidate, TorchTask)
    other = replace(
        experiment,
        candidate=Refit.of(experiment.candidate, dict(before.state), copies=copies),
        metric="validation_loss",
        mode="min",
        segments=experiment.refit_segments,
        agent=schedule,
        schedule="constant",
        reward=None,
        stopping=False,
        start="spread",
        searcher=None,
        stop=StopRule(),
        failures=FailurePolicy(max_restarts=experiment.refit_segments),  # see RefitMember
        floor=None,
        compare=None,
        refit=False,
        ensemble=None,
    )
    inside, values = directory.inside(REFIT), before.state["hyperparameters"]
    trained = train(other, inside, [values] * copies)
    if trained.interrupted:
        return Finish(delivered=before, interrupted=True)

    def made() -> Delivered | None:
        finals = [one for one in trained.states(MOST_GIB * 2**30) if one.origin == "final"]
        found = refitted_model(
            before,
            finals,
            copies=copies,
            metric=experiment.metric,
            mode=experiment.mode,
            kind=composition.declared_kind(experiment),
        )
        if found is None:
            logger.warning("the refit has come to nothing on validation; the run delivers what it had before")
        return found

    found = spared("the run delivers what it had before the refit", made) or replace(before, refit={"copies": 0})
    segments = inside.read_table(layout.SEGMENTS)
    cost = {"segments": len(segments), "train_s": float(segments["seconds"].sum())}
    return Finish(delivered=replace(found, refit={**(found.refit or {}), **cost}))
