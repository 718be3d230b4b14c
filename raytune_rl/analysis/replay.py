"""Replays the schedule that a run has found, without its agent."""

from __future__ import annotations

import logging
import os
from dataclasses import replace

from raytune_rl.analysis.run import Run
from raytune_rl.controller.policies import Replay
from raytune_rl.errors import BadInput
from raytune_rl.experiment import Experiment
from raytune_rl.rundir.summary import refit_cost

logger = logging.getLogger(__name__)


def replayed(experiment: Experiment, directory: str | os.PathLike[str]) -> Experiment:
    """``experiment`` changed to a single new member that follows the hyperparameter schedule of a run's best weights.

    The schedule follows the weights: where they were copied from another member, it has that member's values until
    then. The values are those that were in force, so ``schedule`` is "constant" and changes nothing about them. The new
    member draws its own batches, so it repeats the result in distribution, not bit for bit.

    Raises:
        BadInput: there is no such run, it has no complete path to its best member, or its segment length or
            hyperparameters are not those of ``experiment``.
    """
    try:
        run = Run.load(directory)
    except (OSError, ValueError) as error:
        raise BadInput(f"--replay {os.fspath(directory)}: {error}") from None
    schedule = run.schedule()
    if schedule.segment_length != experiment.segment_length:
        raise BadInput(
            f"--replay {os.fspath(directory)}: segment_length was {schedule.segment_length} there and is "
            f"{experiment.segment_length} here; a replay needs the same."
        )
    if refit_cost(run.summary)[0]:
        logger.warning("%s ended with a refit, which is not replayed: the schedule is what led to it", run.directory)
    values = schedule.values_for(experiment.space())
    return replace(
        experiment,
        agent=Replay(values),
        population=1,
        segments=len(schedule),
        schedule="constant",
        start="spread",
        searcher=None,
        compare=None,
        refit=False,
    )
