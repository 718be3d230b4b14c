"""Runs a population as Ray Tune trials: one ``Tuner.fit()`` from the first segment to the last.

To resume, make a new ``PopulationRun`` over the same directory: the hosts load their own state files. Tune's
checkpoints, snapshots, loggers and progress reports are switched off: they cost time at every result, and nothing here
reads them.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ray import tune
from ray.tune.execution.placement_groups import PlacementGroupFactory

from raytune_rl.population.candidate import Candidate
from raytune_rl.records import Decision, Mode
from raytune_rl.tune.hosts.driver_state import DecisionMaker, DriverState, Sink
from raytune_rl.tune.hosts.host import HostSpec, HostTrainable
from raytune_rl.tune.hosts.scheduler import PopulationScheduler

logger = logging.getLogger(__name__)

STOP_GRACE = 60.0
"""Seconds that trials get after ``request_stop`` to finish their segments and save before they are ended anyway."""

_TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_THRESHOLD_S": "10",
    "RAY_AIR_NEW_OUTPUT": "0",
}

_TUNE_LOGGERS = ("ray.tune.tune", "ray.tune.analysis.experiment_analysis")
"""Loggers to silence: they complain about result files that we disable, and repeat what we have logged."""


@dataclass(frozen=True, kw_only=True)
class PopulationPlan:
    """What to run.

    Attributes:
        candidate: what the members are.
        start: the decision that opens each member's training.
        groups: the members of each trial. The cluster must be able to run all trials at the same time.
        resources: of one trial, by Ray's names: ``{"CPU": 1, "GPU": 0.25}``.
        directory: the run directory, local or any URI that ``pyarrow.fs`` reads. Uses ``tune/`` and ``state/`` in it.
        segment_length: optimiser steps (reports, for Trainables) per segment.
        metric, mode: what "best" means.
        seed: the experiment's.
        segment_timeout: seconds that one member's segment may take; ``None`` = for ever.
        synchronous: a barrier after every segment; the same seed gives the same run.
        checkpoint_every: seconds between two state files of a trial.
        max_failures: how often a trial's actor may die before its members are given up.
        in_place: see ``PopulationScheduler``.
        snapshot_every: segments between two states of a member that are kept for good; 0 = none.
    """

    candidate: Candidate
    start: Mapping[int, Decision]
    groups: Sequence[Sequence[int]]
    resources: Mapping[str, float]
    directory: str
    segment_length: int
    metric: str
    mode: Mode
    seed: int
    segment_timeout: float | None = None
    synchronous: bool = False
    checkpoint_every: float = 10.0
    max_failures: int = 16
    in_place: bool | None = None
    snapshot_every: int = 0

    def __post_init__(self) -> None:
        members = sorted(member for group in self.groups for member in group)
        if members != sorted(self.start) or len(set(members)) != len(members) or not members:
            raise ValueError(f"groups holds the members {members}; each of {sorted(self.start)} belongs there once.")

    @property
    def state_uris(self) -> tuple[str, ...]:
        return tuple(f"{self.directory.rstrip('/')}/state/trial-{i}" for i in range(len(self.groups)))

    def specs(self) -> tuple[HostSpec, ...]:
        session = uuid.uuid4().hex
        return tuple(
            HostSpec(
                candidate=self.candidate,
                start=tuple(self.start[member] for member in group),
                segment_length=self.segment_length,
                metric=self.metric,
                mode=self.mode,
                seed=self.seed,
                state_uri=uri,
                session=session,
                segment_timeout=self.segment_timeout,
                synchronous=self.synchronous,
                snapshot_every=self.snapshot_every,
            )
            for group, uri in zip(self.groups, self.state_uris, strict=True)
        )


@dataclass(frozen=True, kw_only=True)
class PopulationOutcome:
    """How a run went, beside what the sink has recorded.

    Attributes:
        interrupted: the reason of ``request_stop``, if it was called: the run can be resumed.
        restarts: of trial actors.
        dropped: members whose trial failed too often.
        errors: by trial, why it was given up.
        decision_seconds: seconds from a report's arrival to its decision being on the way, one per result.
    """

    interrupted: str | None
    restarts: int
    dropped: tuple[int, ...]
    errors: Mapping[int, str]
    decision_seconds: tuple[float, ...] = field(repr=False)


class PopulationRun:
    """One run of a plan. Ray must be initialised.

    Args:
        plan: what to run.
        controller: decides.
        sink: writes the tables.
    """

    def __init__(self, plan: PopulationPlan, controller: DecisionMaker, sink: Sink) -> None:
        self.plan = plan
        self._driver = DriverState(controller=controller, sink=sink)
        self._stopper = _DeadlineStopper(self._driver)

    def request_stop(self, reason: str) -> None:
        """End the run after the segments that are being trained, with everything saved for a resume. Returns at once;
        may be called from a signal handler or another thread."""
        logger.warning("%s: stopping when the segments under way are done and saved; once more ends it at once", reason)
        self._stopper.start_clock()
        self._driver.interrupted = self._driver.interrupted or reason

    def fit(self) -> PopulationOutcome:
        """Run until every member has stopped.

        Raises:
            ValueError: the candidate does not report the metric, or its trials cannot start. Failures of single members
                and trials are in their reports and in the outcome instead.
        """
        with _environment(_TUNE_ENVIRONMENT), _quiet(_TUNE_LOGGERS), _frozen_heap():
            self._tuner().fit()
        if self._driver.fatal is not None:
            raise self._driver.fatal
        return PopulationOutcome(
            interrupted=self._driver.interrupted,
            restarts=self._driver.restarts,
            dropped=tuple(sorted(self._driver.dropped)),
            errors=dict(self._driver.errors),
            decision_seconds=tuple(self._driver.latencies),
        )

    def _tuner(self) -> tune.Tuner:
        plan = self.plan
        trainable = tune.with_resources(
            tune.with_parameters(HostTrainable, specs=plan.specs()), PlacementGroupFactory([dict(plan.resources)])
        )
        scheduler = PopulationScheduler(
            driver=self._driver,
            members=[tuple(group) for group in plan.groups],
            state_uris=plan.state_uris,
            metric=plan.metric,
            checkpoint_every=plan.checkpoint_every,
            synchronous=plan.synchronous,
            in_place=plan.in_place,
        )
        directory = plan.directory if "://" in plan.directory else os.path.abspath(plan.directory)
        return tune.Tuner(
            trainable,
            param_space={"trial": tune.grid_search(list(range(len(plan.groups))))},
            tune_config=tune.TuneConfig(scheduler=scheduler, reuse_actors=False),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=directory,
                verbose=0,
                stop=self._stopper,
                failure_config=tune.FailureConfig(max_failures=plan.max_failures),
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            ),
        )


class _DeadlineStopper(tune.Stopper):
    """Ends all trials ``STOP_GRACE`` seconds after ``start_clock``, or at once after a fatal error."""

    def __init__(self, driver: DriverState) -> None:
        self._driver = driver
        self._deadline = float("inf")

    def start_clock(self) -> None:
        self._deadline = min(self._deadline, time.monotonic() + STOP_GRACE)

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._driver.fatal is not None or time.monotonic() > self._deadline


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables inside: Tune takes some settings from nowhere else. It reads them when a run starts."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _frozen_heap() -> Iterator[None]:
    """Exempt all present objects from garbage collection inside: Ray's and torch's modules stay anyway, and no decision
    should wait while the collector walks through them."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextlib.contextmanager
def _quiet(names: Sequence[str]) -> Iterator[None]:
    """Silence these loggers inside."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)
