"""Trains a population of functions that report: one Tune trial each, paused and restored by Tune.

A function's hyperparameters cannot be changed while it runs, so this uses ``MetaAgentScheduler``, and adds a run
directory to it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.execution.placement_groups import PlacementGroupFactory
from ray.tune.experiment import Trial
from ray.tune.search.basic_variant import BasicVariantGenerator

from raytune_rl.controller.controller import Controller
from raytune_rl.ensemble.kept import Kept
from raytune_rl.errors import BadInput
from raytune_rl.experiment import Experiment
from raytune_rl.hyperparameters import Spec
from raytune_rl.records import Step, Value
from raytune_rl.rundir.layout import RunDirectory
from raytune_rl.runs.sink import RunSink
from raytune_rl.runs.trained import TrainedPopulation
from raytune_rl.scheduler import MetaAgentScheduler
from raytune_rl.tune.trials.scheduler import OneMemberPerTrialScheduler
from raytune_rl.tune.trials.snapshots import Snapshots
from raytune_rl.tune.trials.state import TrialState

logger = logging.getLogger(__name__)

TUNE = "tune"
"""Tune's experiment directory, inside the run directory."""

SINCE_RESTORE = "time_since_restore"
"""Key of Tune's results: seconds that the trial has trained in this session."""
STRICT = "TUNE_DISABLE_STRICT_METRIC_CHECKING"
"""Environment variable. Tune's check of the metric ends in a traceback; ours is one sentence."""


class _Run:
    """The current run: all that a scheduler needs and that cannot be stored in ``tuner.pkl``.

    Args:
        clock: returns seconds, monotonic.
    """

    def __init__(
        self,
        experiment: Experiment,
        controller: Controller,
        sink: RunSink,
        snapshots: Snapshots,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.experiment = experiment
        self.controller = controller
        self.cores: list[OneMemberPerTrialScheduler] = []
        self._sink = sink
        self._snapshots = snapshots
        self._clock = clock
        self._ends: float | None = None

    def record(self, step: Step) -> None:
        """Record a step of the controller, and flush: Tune may checkpoint functions at any time, and a checkpoint must
        not be ahead of the tables."""
        self._sink.record(step)
        self._sink.flush()

    def failed(self, member: int, why: str, recovers: bool) -> None:
        """Record the failure of a trial, for which there is no report."""
        self._sink.counts.failures += 1
        self._sink.counts.restarts += recovers
        self._sink.flush()
        self.controller.trouble = why
        goes_on = "it starts again from its last checkpoint" if recovers else "given up"
        logger.warning("member %d failed (%s): %s", member, why, goes_on)

    def began(self, result: Mapping[str, Any]) -> None:
        """To be called with each result. At the first one, the wall time and the stop rule's start: they count from the
        start of its trial."""
        if self._ends is None:
            ago, limit = float(result.get(SINCE_RESTORE) or 0.0), self.experiment.stop.seconds
            self._sink.began(ago)
            self._ends = self._clock() - ago + (math.inf if limit is None else limit - self._sink.wall_s)

    def turn(self) -> None:
        """Do what must happen even without reports. To be called in every turn of Tune's loop."""
        self._snapshots.keep()
        if self._ends is not None and self._clock() >= self._ends and self.controller.stopping is None:
            self.cores[-1].stop(f"the budget of {self.experiment.stop.seconds:g} seconds is used up")


_under_way: list[_Run] = []
"""The current run is the last one. A restored Tuner cannot be given a new scheduler, so the one that it has restored
finds its run here."""


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

    def build(self, state: TrialState | None) -> OneMemberPerTrialScheduler:
        run = _under_way[-1]
        core = OneMemberPerTrialScheduler(
            run.controller,
            segment_length=self.segment_length,
            synchronous=self.synchronous,
            state=state,
            record=run.record,
            failed=run.failed,
            timeout=run.experiment.segment_timeout,
            strict=True,
            starts=self._starts,
            population=self._population,
        )
        run.cores.append(core)
        return core

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        _under_way[-1].began(result)
        return super().on_trial_result(tune_controller, trial, result)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        _under_way[-1].turn()
        return super().choose_trial_to_run(tune_controller)


def train_functions(
    experiment: Experiment,
    directory: RunDirectory,
    controller: Controller,
    sink: RunSink,
    *,
    slots: int,
    points: Sequence[Mapping[str, Value] | None],
) -> TrainedPopulation:
    """Train to the end, continuing Tune's experiment in ``directory`` if there is one.

    Raises:
        BadInput: the function does not report the metric, or Tune's experiment is damaged.
    """
    # Tune accepts only URIs and absolute paths
    run = directory.location if directory.local is None else str(directory.local.resolve())
    path = f"{run.rstrip('/')}/{TUNE}"
    snapshots = Snapshots(path)
    under_way = _Run(experiment, controller, sink, snapshots)
    with _registered(under_way):
        if snapshots.mend():
            sink.restore()
            tuner = _restored(path, experiment)
        else:
            starts = [controller.begin(member, point).hyperparameters for member, point in enumerate(points)]
            tuner = _tuner(run, experiment, starts)
        results = tuner.fit()
    if controller.problem is not None:
        raise BadInput(controller.problem)
    for error in results.errors:
        logger.warning("a trial failed:\n%s", error)

    def export(folder: Path) -> bool:
        best = results.get_best_result(experiment.metric, experiment.mode, scope="all")
        checkpoint = best.get_best_checkpoint(experiment.metric, experiment.mode) if best.best_checkpoints else None
        if checkpoint is None:
            return False
        with checkpoint.as_directory() as source:
            shutil.copytree(source, folder, dirs_exist_ok=True)
        return True

    return TrainedPopulation(
        controller=controller,
        sink=sink,
        slots=slots,
        decision_ms=[1e3 * seconds for core in under_way.cores for seconds in core.latencies],
        interrupted=False,
        export=export,
        test=dict,
        states=_no_states,
    )


@contextlib.contextmanager
def _registered(run: _Run) -> Iterator[None]:
    """Within this context, Tune's schedulers find ``run``, and Tune leaves the check of the metric to them."""
    before = os.environ.get(STRICT)
    os.environ[STRICT] = "1"
    _under_way.append(run)
    try:
        yield
    finally:
        _under_way.pop()
        os.environ.pop(STRICT)
        if before is not None:
            os.environ[STRICT] = before


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
