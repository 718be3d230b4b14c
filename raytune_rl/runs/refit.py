"""The refit of a run (``Experiment.refit``): spends the last part of its budget on training with all rows.

The copies are a population of their own, in the run directory's ``refit/``. They are trained like any other population,
so trials, packing, checkpoints and ``--resume`` work as usual. No agent steers them: learning rates follow a cosine.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from raytune_rl.controller.controller import Controller
from raytune_rl.controller.failures import FailurePolicy
from raytune_rl.controller.policies import Cosine, Fixed
from raytune_rl.ensemble.finishing import MOST_GIB, spared
from raytune_rl.experiment import Experiment, StopRule
from raytune_rl.hyperparameters import Hyperparameter
from raytune_rl.records import Value
from raytune_rl.rundir import layout
from raytune_rl.rundir.layout import RunDirectory
from raytune_rl.runs import composition
from raytune_rl.runs.trained import TrainPopulation

if TYPE_CHECKING:
    from raytune_rl.ensemble.delivery import Delivered

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """What a run delivers in the end, and whether its refit was interrupted."""

    delivered: Delivered | None
    interrupted: bool = False


def refitted(
    experiment: Experiment,
    directory: RunDirectory,
    before: Delivered | None,
    controller: Controller,
    train: TrainPopulation,
) -> Finish:
    """Train copies of the model that would be delivered, and average them. If that fails, deliver ``before``.

    Args:
        before: what the run would deliver without a refit.
        controller: of the run; it has the values that members were given.
        train: trains a population in its own directory.
    """
    if before is None:
        logger.warning("no refit: the run has no model that could be trained on")
        return Finish(delivered=None)
    inside = directory.inside(layout.REFIT)

    def refit_in_directory() -> Finish:
        from raytune_rl.ensemble.refit_model import refitted_model

        points = [_starting_values(before, controller)] * experiment.population
        trained = train(_refit_experiment(experiment, before), inside, points)
        if trained.interrupted:
            return Finish(delivered=before, interrupted=True)
        model = refitted_model(
            before,
            [kept for kept in trained.states(MOST_GIB * 2**30) if kept.origin == "final"],
            copies=experiment.population,
            metric=experiment.metric,
            mode=experiment.mode,
            kind=composition.declared_kind(experiment),
        )
        if model is None:
            logger.warning("the refit has come to nothing on validation; the run delivers what it had before")
        return Finish(delivered=model or before)

    finish = spared("the run delivers what it had before the refit", refit_in_directory) or Finish(delivered=before)
    if finish.interrupted or finish.delivered is None:
        return finish
    cost = {"segments": 0, "train_s": 0.0}
    if inside.exists(layout.SEGMENTS):
        segments = inside.read_table(layout.SEGMENTS)
        cost = {"segments": len(segments), "train_s": float(segments["seconds"].sum())}
    return Finish(delivered=replace(finish.delivered, refit={"copies": 0, **(finish.delivered.refit or {}), **cost}))


def _refit_experiment(experiment: Experiment, before: Delivered) -> Experiment:
    """The refit as an experiment, whose members are the copies."""
    from raytune_rl.population.refit_task import Refit

    schedule: Fixed = Cosine()
    return replace(
        experiment,
        candidate=Refit.of(before.task, dict(before.state), copies=experiment.population),
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


def _starting_values(before: Delivered, controller: Controller) -> Mapping[str, Value]:
    """The values that the model was trained with. If one of them is not in the space (say, because the member was given
    a batch size above the size of the train split, or too many frozen layers), the value that the member was given."""
    in_force: Mapping[str, Value] = before.state["hyperparameters"]
    positions = controller.members[before.state["member"]].best_positions
    given = controller.space.decode(positions or [0.5] * len(controller.space))

    def in_space(hyperparameter: Hyperparameter) -> bool:
        try:
            hyperparameter.encode(in_force[hyperparameter.name])
        except ValueError:
            return False
        return True

    return {h.name: (in_force if in_space(h) else given)[h.name] for h in controller.space}
