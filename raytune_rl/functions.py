"""Trains a population of functions that report: one Tune trial each, paused and restored by Tune itself.

A function cannot be changed while it runs, so this is the way of ``MetaAgentScheduler`` with a run directory around it.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.execution.placement_groups import PlacementGroupFactory
from ray.tune.search.basic_variant import BasicVariantGenerator

from raytune_rl.controller.controller import Controller
from raytune_rl.ensemble.kept import Kept
from raytune_rl.errors import BadInput
from raytune_rl.experiment import Experiment
from raytune_rl.hyperparameters import Spec
from raytune_rl.records import Step, Value
from raytune_rl.rundir.layout import RunDirectory
from raytune_rl.scheduler import MetaAgentScheduler
from raytune_rl.sink import RunSink
from raytune_rl.trained import Trained
from raytune_rl.tune.trial_scheduler import TrialScheduler
from raytune_rl.tune.trial_state import TrialState

logger = logging.getLogger(__name__)

TUNE = "tune"
"""Tune's experiment directory, inside the run directory."""

_under_way: list[tuple[Controller, Callable[[Step], None], list[TrialScheduler]]] = []
"""Of the run under way, what a scheduler that comes back from ``tuner.pkl`` cannot bring along: Tune gives no way to
hand a restored Tuner another scheduler, so the one that it has looks here."""


class _RunScheduler(MetaAgentScheduler):
    """The scheduler of a run with a run directory."""

    def __init__(self, experiment: Experiment) -> None:
        super().__init__(
            hyperparameters=experiment.hyperparameters,
            agent=experiment.agent,
            segment_length=experiment.segment_length,
            segments=experiment.segments,
            synchronous=experiment.synchronous,
            seed=experiment.seed,
        )

    def build(self, state: TrialState | None) -> TrialScheduler:
        controller, record, cores = _under_way[-1]
        core = TrialScheduler(
            controller,
            segment_length=self.segment_length,
            synchronous=self.synchronous,
            state=state,
            record=record,
            starts=self._starts,
            population=self._population,
        )
        cores.append(core)
        return core


def train_functions(
    experiment: Experiment,
    directory: RunDirectory,
    controller: Controller,
    sink: RunSink,
    *,
    slots: int,
    points: Sequence[Mapping[str, Value] | None],
) -> Trained:
    """Train to the end; takes up what Tune's experiment directory in ``directory`` holds.

    Raises:
        BadInput: the function does not report the metric.
    """
    # Tune takes what has no scheme and does not begin at the root for an address that is wrong.
    run = directory.location if directory.local is None else str(directory.local.resolve())
    cores: list[TrialScheduler] = []

    def record(step: Step) -> None:
        # Tune checkpoints functions when it likes, so no row may wait.
        sink.record(step)
        sink.flush()

    _under_way.append((controller, record, cores))
    path = f"{run.rstrip('/')}/{TUNE}"
    try:
        tuner = _restored(path, experiment) if tune.Tuner.can_restore(path) else None
        if tuner is not None:
            sink.restore()
        else:
            starts = [controller.begin(member, point).hyperparameters for member, point in enumerate(points)]
            tuner = _tuner(run, experiment, starts)
        results = tuner.fit()
    finally:
        _under_way.pop()
    if controller.problem is not None:
        raise BadInput(controller.problem)
    for error in results.errors:
        logger.warning("a trial failed:\n%s", error)
        if "did not include the specified metric" in str(error):
            raise BadInput(f"metric is {experiment.metric!r}, which the candidate does not report.")

    def export(folder: Path) -> bool:
        best = results.get_best_result(experiment.metric, experiment.mode, scope="all")
        checkpoint = best.get_best_checkpoint(experiment.metric, experiment.mode) if best.best_checkpoints else None
        if checkpoint is None:
            return False
        with checkpoint.as_directory() as source:
            shutil.copytree(source, folder, dirs_exist_ok=True)
        return True

    return Trained(
        controller=controller,
        sink=sink,
        slots=slots,
        decision_ms=[1e3 * seconds for core in cores for seconds in core.latencies],
        interrupted=False,
        export=export,
        test=dict,
        states=_no_states,
    )


def _no_states(most_bytes: float) -> list[Kept]:
    raise ValueError("functions keep their own checkpoints")


def _tuner(
    run: str,
    experiment: Experiment,
    starts: Sequence[Mapping[str, Value]],
) -> tune.Tuner:
    domains = {n: s.domain if isinstance(s, Spec) else s for n, s in experiment.hyperparameters.items()}
    return tune.Tuner(
        _trainable(experiment),
        param_space={**experiment.constants, **domains},
        tune_config=tune.TuneConfig(
            metric=experiment.metric,
            mode=experiment.mode,
            num_samples=experiment.population,
            reuse_actors=True,
            search_alg=BasicVariantGenerator(
                points_to_evaluate=[dict(start) for start in starts], random_state=experiment.seed
            ),
            scheduler=_RunScheduler(experiment),
        ),
        run_config=tune.RunConfig(
            name=TUNE,
            storage_path=run,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=experiment.failures.max_restarts),
            checkpoint_config=tune.CheckpointConfig(
                num_to_keep=2, checkpoint_score_attribute=experiment.metric, checkpoint_score_order=experiment.mode
            ),
        ),
    )


def _restored(path: str, experiment: Experiment) -> tune.Tuner:
    return tune.Tuner.restore(path, _trainable(experiment), resume_unfinished=True, resume_errored=True)


def _trainable(experiment: Experiment) -> Any:
    return tune.with_resources(experiment.candidate, PlacementGroupFactory([dict(experiment.resources)]))
