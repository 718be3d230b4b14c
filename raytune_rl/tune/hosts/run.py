"""Runs a population as Ray Tune trials: one ``Tuner.fit()`` from the first segment to the last.

Resuming is a new ``PopulationRun`` over the same directory: the hosts find their own state files. Tune's checkpoints,
snapshots, loggers and progress reports are switched off; they cost time at every result and nothing here reads them.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ray import tune
from ray.tune.execution.placement_groups import PlacementGroupFactory

from raytune_rl.population.candidate import Candidate
from raytune_rl.records import Decision, Mode
from raytune_rl.tune.hosts.host import HostSpec, HostTrainable, export_best
from raytune_rl.tune.hosts.scheduler import Controller, Live, PopulationScheduler, Sink

logger = logging.getLogger(__name__)

STOP_GRACE = 60.0
"""Seconds that trials have after ``request_stop`` to finish their segments and save; then they are ended anyway."""

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
"""Where Tune misses the result files that we have told it not to write, and repeats what we have logged."""


@dataclass(frozen=True, kw_only=True)
class PopulationPlan:
    """What to run.

    Attributes:
        candidate: what the members are.
        start: the decision that opens each member's training.
        groups: the members of each trial. All trials must be able to run at the same time.
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

    def export_best(self, member: int, directory: Path) -> bool:
        """Write a member's best model for users; False if its trial has saved none. Call after the run."""
        home = next(i for i, group in enumerate(self.groups) if member in group)
        return export_best(self.candidate, self.state_uris[home], member, directory)


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

    def decision_ms(self, quantile: float) -> float:
        """A quantile (0 to 1) of the decision latency in milliseconds; NaN before the first decision."""
        samples = self.decision_seconds
        return float(np.quantile(samples, quantile) * 1e3) if samples else float("nan")


class PopulationRun:
    """One run of a plan. Needs a Ray that is initialised.

    Args:
        plan: what to run.
        controller: who decides.
        sink: who writes down.
        clock: seconds, for the time between state files.
    """

    def __init__(
        self, plan: PopulationPlan, controller: Controller, sink: Sink, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.plan = plan
        self.live = Live(controller=controller, sink=sink, clock=clock)
        self._stopper = _DeadlineStopper(self.live)

    def request_stop(self, reason: str) -> None:
        """End the run after the segments that are being trained, saved so that it can be resumed. Returns at once;
        may be called from a signal handler or another thread."""
        logger.warning("%s: stopping when the segments under way are done and saved; once more ends it at once", reason)
        self._stopper.start_clock()
        self.live.interrupted = self.live.interrupted or reason

    def fit(self) -> PopulationOutcome:
        """Run until every member has stopped.

        Raises what the candidate's metrics or the controller got wrong (``ValueError`` for a metric that isn't
        reported). What single members or trials do wrong is in their reports and in the outcome.
        """
        with _environment(_TUNE_ENVIRONMENT), _quiet(_TUNE_LOGGERS), _frozen_heap():
            self._tuner().fit()
        if self.live.fatal is not None:
            raise self.live.fatal
        return PopulationOutcome(
            interrupted=self.live.interrupted,
            restarts=self.live.restarts,
            dropped=tuple(sorted(self.live.dropped)),
            errors=dict(self.live.errors),
            decision_seconds=tuple(self.live.latencies),
        )

    def _tuner(self) -> tune.Tuner:
        plan = self.plan
        trainable = tune.with_resources(
            tune.with_parameters(HostTrainable, specs=plan.specs()), PlacementGroupFactory([dict(plan.resources)])
        )
        scheduler = PopulationScheduler(
            live=self.live,
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
    """Ends what has not ended by itself after ``STOP_GRACE`` seconds, and everything after a fatal error."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._deadline = float("inf")

    def start_clock(self) -> None:
        self._deadline = min(self._deadline, time.monotonic() + STOP_GRACE)

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._live.fatal is not None or time.monotonic() > self._deadline


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Tune takes these settings from environment variables only, and reads them when a run starts."""
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
    """Garbage collections leave out what there is before: Ray's and torch's modules stay anyway, and nobody gets a
    decision while all their objects are gone through."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextlib.contextmanager
def _quiet(names: Sequence[str]) -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in names]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)
