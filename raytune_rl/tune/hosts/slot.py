"""One member in its host: trains it segment by segment and carries its decisions out. Independent of Ray.

An exception of the candidate ends up in the member's next report and never leaves this class, so that the other members
of the trial go on.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np

from raytune_rl.errors import user_traceback
from raytune_rl.mdp.score import TIE_BREAKER, order
from raytune_rl.population.candidate import Candidate, Member, MemberContext, SegmentResult, State
from raytune_rl.records import Decision, Mode, Report, SourceKind, Status
from raytune_rl.tune.hosts.state_files import Memory, Snapshot

logger = logging.getLogger(__name__)

KILLED = "The process died in this segment: it was killed, or crashed."
"""Error in the report of the member that was training when the process died."""
COPY_DROPPED = "copy_dropped"
"""Signal in the report of a member that kept its own weights because a copy failed (its donor died, say)."""

_FAILURES = (Exception, SystemExit)  # a candidate that calls sys.exit() must not end the whole trial


class Transfer(Protocol):
    """A snapshot on its way from another trial."""

    def ready(self, timeout: float = 0.0) -> bool:
        """Whether ``get`` would return (or raise) at once, waiting up to ``timeout`` seconds for it."""
        ...

    def get(self) -> Snapshot:
        """Raises whatever went wrong at the donor."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotSettings:
    """What all members of a trial have in common.

    Attributes:
        candidate: builds the members.
        segment_length: optimiser steps (reports, for Trainables) per segment.
        metric, mode: what "best" means.
        seed: the experiment's.
        trial_id, node: for the reports.
        copy_deadline: seconds to wait for a copy before each segment; 0 = the member trains on until it arrives.
        snapshot_every: segments between two states that are kept for good; 0 = none.
    """

    candidate: Candidate
    segment_length: int
    metric: str
    mode: Mode
    seed: int
    trial_id: str = ""
    node: str = ""
    copy_deadline: float = 0.0
    snapshot_every: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A segment that was trained together with other members'; ``seconds`` is this member's share of the time."""

    result: SegmentResult | Exception
    seconds: float

    def get(self) -> SegmentResult:
        """The result. Raises the candidate's exception, if it raised one."""
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


class Slot:
    """One member and all that its host knows about it.

    Args:
        settings: shared with the trial's other members.
        start: the decision for segment 0.
        device: ``"cpu"``, or one of the trial's own GPUs (``"cuda:0"``).

    Attributes:
        missing_metrics: if the first report lacks the experiment's metric, the metrics that it has.
    """

    def __init__(self, settings: SlotSettings, start: Decision, *, device: str = "cpu") -> None:
        self.index = start.member
        self.missing_metrics: tuple[str, ...] | None = None
        self._settings = settings
        self._device = device
        self._memory = Memory(decision=start)
        self._member: Member | None = None
        self._pending: tuple[Decision, Transfer] | None = None
        self._stored: State | None = None  # of a member that was stopped when restored: it is not built again
        self._error: str | None = None
        self._snapshots: list[Snapshot] = []
        self._marked: tuple[int, Status] | None = None
        self._signals: dict[str, float] = {}

    # -- life ------------------------------------------------------------------------------------------------------

    @property
    def segment(self) -> int:
        """The segment that it trains next."""
        return self._memory.segment

    @property
    def stopped(self) -> bool:
        return self._memory.stopped

    def start(self) -> None:
        """Build the member with its starting values."""
        self._guarded(lambda: self._build(self._memory.decision))

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Continue from what ``to_save`` returned."""
        self._memory = Memory.from_saved(saved["memory"])
        self._snapshots = list(saved.get("snapshots", []))

        def rebuild() -> None:
            decision = self._memory.decision
            member = self._build(decision)
            if saved["state"] is not None:
                member.set_state(saved["state"])
                self._apply(decision)

        if not self.stopped:
            self._guarded(rebuild)
        self._stored = saved["state"] if self._member is None else None

    def to_save(self) -> dict[str, Any]:
        """Everything that a restart needs; training on does not change it."""
        return {
            "memory": replace(self._memory),
            "state": self._state_or_none(),
            "snapshots": list(self._snapshots),
        }

    def mark(self, segment: int, status: Literal["hung", "failed"]) -> None:
        """Mark ``segment`` as hung or failed: on reaching it the member reports that status instead of training."""
        self._marked = (segment, status)

    def close(self) -> None:
        if self._member is not None:
            self._guarded(self._member.close)

    # -- training --------------------------------------------------------------------------------------------------

    def ready(self) -> Member | None:
        """The member, if it can train its next segment. A copy that has arrived is taken first."""
        self._receive()
        return None if self._marked_status or self._error is not None else self._member

    def run_segment(self, watching: AbstractContextManager[None]) -> Report:
        """Train the next segment inside ``watching`` and report it. Never raises an error of the candidate's."""
        self._receive()
        began = time.perf_counter()
        with watching:
            status = self._marked_status
            if status is not None:
                self._marked = None
            if status == "failed":
                self._error = KILLED
            result = None if status or self._error is not None else self._guarded(self._train)
            return self._finish(result, time.perf_counter() - began, status or self._judge(result))

    def report_trained(self, trained: Trained, watching: AbstractContextManager[None]) -> Report:
        """Report the next segment, which the member that ``ready`` returned has trained together with others."""
        with watching:
            result: SegmentResult | None = self._guarded(trained.get)
            return self._finish(result, trained.seconds, self._judge(result))

    def _finish(self, result: SegmentResult | None, seconds: float, status: Status) -> Report:
        """Report a segment, keep the weights if they are worth it, and move on to the next."""
        report = self._report(status, result, seconds)
        if status == "ok":
            self._keep_best(report)
            self._keep_snapshot(report)
        self._memory.reported = True
        self._memory.segment += 1
        self._memory.copied = None
        return report

    @property
    def _marked_status(self) -> Status | None:
        """The status to report instead of training the next segment, if there is one."""
        return self._marked[1] if self._marked is not None and self.segment >= self._marked[0] else None

    def _train(self) -> SegmentResult:
        return self._built().train(self._settings.segment_length)

    def _judge(self, result: SegmentResult | None) -> Status:
        if result is None:
            return "failed"
        metric = self._settings.metric
        if metric not in result.metrics:
            names = tuple(sorted(result.metrics))
            self._error = f"The candidate does not report {metric!r}; it reports {', '.join(names) or 'nothing'}."
            if not self._memory.reported:
                self.missing_metrics = names
            return "failed"
        return "ok" if math.isfinite(result.metrics[metric]) else "diverged"

    def _report(self, status: Status, result: SegmentResult | None, seconds: float) -> Report:
        memory, metrics, signals = self._memory, dict[str, float](), self._signals
        self._signals = {}
        if result is not None:
            metrics = dict(result.metrics)
            signals = {**result.signals, **signals}
            memory.steps += result.steps
        signals.setdefault("train_seconds", seconds)
        # A metric with a hyperparameter's own name is the value that was really in force.
        read_back = {name: metrics[name] for name in memory.effective if name in metrics}
        copied_from, copied_segment = memory.copied or (None, None)
        return Report(
            member=self.index,
            segment=memory.segment,
            steps=memory.steps,
            metrics=metrics,
            signals=signals,
            hyperparameters={**(memory.effective or memory.decision.hyperparameters), **read_back},
            decision=memory.decision.segment,
            seconds=seconds,
            trial_id=self._settings.trial_id,
            node=self._settings.node,
            copied_from=copied_from,
            copied_segment=copied_segment,
            status=status,
            error=self._error,
            done=result is not None and result.done,
            predictions=result.predictions if result is not None and status == "ok" else None,
        )

    def _keep_best(self, report: Report) -> None:
        metric, memory = self._settings.metric, self._memory
        best = {TIE_BREAKER: memory.best_loss, metric: memory.best_value}  # the value wins if both are one metric
        now, then = (order(m, metric=metric, mode=self._settings.mode) for m in (report.metrics, best))
        if now < then:
            snapshot = self._guarded(self.snapshot)
            if snapshot is not None:
                memory.best_value = report.metrics[metric]
                memory.best_loss = report.metrics.get(TIE_BREAKER, math.nan)
                self._memory.best = replace(snapshot, segment=report.segment)

    def _keep_snapshot(self, report: Report) -> None:
        every = self._settings.snapshot_every
        if every and (report.segment + 1) % every == 0:
            snapshot = self._guarded(self.snapshot)
            if snapshot is not None:
                self._snapshots.append(replace(snapshot, segment=report.segment))

    # -- decisions -------------------------------------------------------------------------------------------------

    def follow(self, decision: Decision, source: Snapshot | Transfer | None = None) -> None:
        """Carry out a decision between two segments.

        Args:
            decision: what to do.
            source: the weights of another member that ``decision.source`` asks for: a snapshot, or one on its way.
                Until that arrives, the member continues under its old decision. Decisions without a copy are ignored
                meanwhile; a stop, or another copy, replaces the one on its way.
        """
        if self.stopped:
            return
        if decision.stop:
            self._memory.stopped, self._pending = True, None
        elif decision.source.kind == "keep":
            if self._pending is None:
                self._error = None
                self._guarded(lambda: self._apply(decision) if self._member is not None else self._build(decision))
        elif decision.source.member == self.index:
            self._guarded(lambda: self._roll_back(decision))
        elif isinstance(source, Snapshot):
            self._guarded(lambda: self._adopt(decision, source))
        elif source is not None:
            self._pending = (decision, source)
        else:
            self._drop_copy(decision, "the donor is gone")

    def snapshot(self, kind: SourceKind = "member") -> Snapshot:
        """Its present weights, or (``checkpoint``) its best so far. Raises ``LookupError`` if it has none."""
        if kind == "checkpoint":
            if self._memory.best is None:
                raise LookupError(f"member {self.index} has no best checkpoint yet")
            return self._memory.best
        state = self._state_or_none()
        if state is None:
            raise LookupError(f"member {self.index} has no weights at present")
        return Snapshot(member=self.index, segment=self._memory.segment - 1, state=state)

    def _receive(self) -> None:
        """Take the weights of the copy that was on its way, if they have arrived."""
        if self._pending is None:
            return
        decision, transfer = self._pending
        if not transfer.ready(self._settings.copy_deadline):
            if self._settings.copy_deadline > 0:
                self._pending = None
                self._drop_copy(decision, f"not there after {self._settings.copy_deadline:g} s")
            return
        self._pending = None
        try:
            snapshot = transfer.get()
        except Exception as error:
            self._drop_copy(decision, f"{type(error).__name__} at the donor")
            return
        self._guarded(lambda: self._adopt(decision, snapshot))

    def _drop_copy(self, decision: Decision, why: str) -> None:
        logger.warning(
            "member %d keeps its own weights: no copy of member %s (%s)", self.index, decision.source.member, why
        )
        self._signals[COPY_DROPPED] = 1.0

    def _adopt(self, decision: Decision, snapshot: Snapshot) -> None:
        """Continue from ``snapshot`` under ``decision``."""
        # After an exception the old instance may be in any state, so it is replaced.
        member = self._build(decision) if self._error is not None or self._member is None else self._member
        self._pending = None
        member.set_state(snapshot.state)
        self._apply(decision)
        self._memory.copied = (snapshot.member, snapshot.segment)
        for name, asked in decision.hyperparameters.items():
            effective = self._memory.effective.get(name, asked)
            if effective != asked:
                logger.warning("member %d: %s is %r after the copy, not %r", self.index, name, effective, asked)
        logger.debug("member %d goes on from %d: %s", self.index, snapshot.member, self._memory.effective)

    def _roll_back(self, decision: Decision) -> None:
        """Go back to its own best weights; without any, start again from the beginning."""
        if self._memory.best is not None:
            self._adopt(decision, self._memory.best)
        else:
            self._pending = None
            self._build(decision)

    def _apply(self, decision: Decision) -> None:
        self._memory.effective = dict(self._built().apply(decision.hyperparameters))
        self._memory.decision = decision

    def _build(self, decision: Decision) -> Member:
        if self._member is not None:
            self._guarded(self._member.close)
        self._member, self._error = None, None
        context = MemberContext(member=self.index, seed=self._seed(), device=self._device)
        self._memory.builds += 1
        self._member = self._settings.candidate.build(context, decision.hyperparameters)
        self._apply(decision)
        return self._member

    def _seed(self) -> int:
        """A new seed for each build, so that a member that failed by an unlucky start does not get the same again."""
        sequence = np.random.SeedSequence([self._settings.seed, self.index, self._memory.builds])
        return int(sequence.generate_state(1)[0])

    # -- help ------------------------------------------------------------------------------------------------------

    def _built(self) -> Member:
        if self._member is None:
            raise LookupError(f"member {self.index} could not be built")
        return self._member

    def _state_or_none(self) -> State | None:
        if self._member is None:
            return self._stored
        return self._guarded(self._member.get_state)

    def _guarded(self, call: Callable[[], Any]) -> Any:
        """What ``call`` returns; if the candidate raises, ``None``, and the member has failed."""
        try:
            return call()
        except _FAILURES as error:
            self._error = user_traceback(error)
            logger.warning("member %d: %s: %s", self.index, type(error).__name__, error)
            return None


def needs_donor(decision: Decision) -> bool:
    """Whether weights have to come from another member."""
    source = decision.source
    return source.kind != "keep" and source.member != decision.member and not decision.stop
