"""One member in its host: trains it segment by segment and carries its decisions out. Knows nothing of Ray.

Whatever the candidate does wrong ends up in the member's next report and never leaves this class, so that the other
members of the trial go on.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Protocol

import numpy as np

from raytune_rl.errors import user_traceback
from raytune_rl.mdp.score import TIE_BREAKER, order
from raytune_rl.population.candidate import Candidate, Member, MemberContext, SegmentResult, State
from raytune_rl.records import Decision, Mode, Report, SourceKind, Status, Value

logger = logging.getLogger(__name__)

KILLED = "The process died in this segment: it was killed, or crashed."
"""Error in the report of a member that trained in a process when that died."""
COPY_DROPPED = "copy_dropped"
"""Signal in the report of a member whose copy could not be had (the donor died); it went on with its own."""

_FAILURES = (Exception, SystemExit)  # a candidate that calls sys.exit() must not take its neighbours along


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A member's weights as they were after ``segment`` (-1: untrained)."""

    member: int
    segment: int
    state: State


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
        copy_deadline: seconds that a copy is waited for before each segment; 0 = the member trains on meanwhile.
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
    """A segment that was trained outside the slot; ``seconds`` is the member's share of the time."""

    result: SegmentResult | Exception
    seconds: float

    def get(self) -> SegmentResult:
        """The result. Raises what the candidate has raised."""
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


@dataclass(slots=True)
class _Memory:
    """What survives a restart of the actor, beside the member's own state."""

    decision: Decision
    segment: int = 0
    steps: int = 0
    effective: Mapping[str, Value] = field(default_factory=dict)
    best: Snapshot | None = None
    best_value: float = math.nan
    stopped: bool = False
    builds: int = 0
    reported: bool = False
    copied: tuple[int, int] | None = None
    best_loss: float = math.nan

    @classmethod
    def revived(cls, saved: _Memory) -> _Memory:
        """What was saved, perhaps by an earlier version, which has fewer fields."""
        return cls(**{f.name: getattr(saved, f.name) for f in fields(cls) if hasattr(saved, f.name)})


class Slot:
    """One member and all that its host knows about it.

    Args:
        settings: shared with the trial's other members.
        start: the decision for segment 0.
        device: ``"cpu"``, or one of the trial's own GPUs (``"cuda:0"``).
    """

    def __init__(self, settings: SlotSettings, start: Decision, *, device: str = "cpu") -> None:
        self.index = start.member
        self.missing_metrics: tuple[str, ...] | None = None
        """The metrics that there are, where the first report lacked the one that counts."""
        self._settings = settings
        self._device = device
        self._start = start
        self._memory = _Memory(decision=start)
        self._member: Member | None = None
        self._pending: tuple[Decision, Transfer] | None = None
        self._stored: State | None = None  # of a member that was restored stopped: it needs no instance any more
        self._error: str | None = None
        self._snapshots: list[Snapshot] = []
        self._spoilt: tuple[int, Status] | None = None
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
        """Go on from what ``to_save`` gave."""
        self._memory = _Memory.revived(saved["memory"])
        self._snapshots = list(saved.get("snapshots", []))

        def revive() -> None:
            decision = self._memory.decision
            member = self._build(decision)
            if saved["state"] is not None:
                member.set_state(saved["state"])
                self._apply(decision)

        if not self.stopped:
            self._guarded(revive)
        self._stored = saved["state"] if self._member is None else None

    def to_save(self) -> dict[str, Any]:
        """Everything that a restart needs. Snapshots in it are never changed later."""
        return {
            "memory": replace(self._memory),
            "state": self._state_or_none(),
            "snapshots": list(self._snapshots),
        }

    def spoil(self, segment: int, status: Literal["hung", "failed"]) -> None:
        """That segment never ended, or killed the process: when it comes to it again it does not train, but says so."""
        self._spoilt = (segment, status)

    def close(self) -> None:
        if self._member is not None:
            self._guarded(self._member.close)

    # -- training --------------------------------------------------------------------------------------------------

    def ready(self) -> Member | None:
        """The member, all that was under way landed, if it can train its next segment."""
        self._receive()
        return None if self._fate or self._error is not None else self._member

    def run_segment(
        self, watching: Callable[[], AbstractContextManager[None]], trained: Trained | None = None
    ) -> Report:
        """Train the next segment inside ``watching()`` and report it. Never raises for what the candidate does.

        ``trained``: the segment as it was trained together with others, after ``ready``; it is only reported then.
        """
        if trained is None:
            self._receive()
        fate = self._fate
        if fate == "failed":
            self._error = KILLED
        began = time.perf_counter()
        with watching():
            if trained is not None:
                result: SegmentResult | None = self._guarded(trained.get)
                seconds = trained.seconds
            else:
                result = None if fate or self._error is not None else self._guarded(self._train)
                seconds = time.perf_counter() - began
            status: Status = fate or self._judge(result)
            report = self._report(status, result, seconds)
            if status == "ok":
                self._keep_best(report)
                self._keep_snapshot(report)
        if fate:
            self._spoilt = None
        self._memory.reported = True
        self._memory.segment += 1
        self._memory.copied = None
        return report

    @property
    def _fate(self) -> Status | None:
        """How the next segment ends without being trained."""
        return self._spoilt[1] if self._spoilt is not None and self.segment >= self._spoilt[0] else None

    def _train(self) -> SegmentResult:
        return self._live().train(self._settings.segment_length)

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
        # A metric with a hyperparameter's own name says what was really in force.
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
        best = {TIE_BREAKER: memory.best_loss, metric: memory.best_value}  # where both are the same, the value
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

        ``source`` is what its ``source`` field asks for of another member: a snapshot, or one that is still on its
        way. Then the member goes on under its old decision until the weights are there; plain decisions that come
        meanwhile pass it by, a stop and another copy take its place.
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
            self._guarded(lambda: self._land(decision, source))
        elif source is not None:
            self._pending = (decision, source)
        else:
            self._drop_copy(decision, "the donor is gone")

    def snapshot(self, kind: SourceKind = "member") -> Snapshot:
        """Its present weights, or (``checkpoint``) its best ones so far. Raises ``LookupError`` if it has none."""
        if kind == "checkpoint":
            if self._memory.best is None:
                raise LookupError(f"member {self.index} has no best checkpoint yet")
            return self._memory.best
        state = self._state_or_none()
        if state is None:
            raise LookupError(f"member {self.index} has no weights at present")
        return Snapshot(member=self.index, segment=self._memory.segment - 1, state=state)

    def _receive(self) -> None:
        """Land the copy that was under way, if it has arrived."""
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
        self._guarded(lambda: self._land(decision, snapshot))

    def _drop_copy(self, decision: Decision, why: str) -> None:
        logger.warning(
            "member %d keeps its own weights: no copy of member %s (%s)", self.index, decision.source.member, why
        )
        self._signals[COPY_DROPPED] = 1.0

    def _land(self, decision: Decision, snapshot: Snapshot) -> None:
        # After an exception nobody knows what the old instance is worth.
        member = self._build(decision) if self._error is not None or self._member is None else self._member
        self._pending = None
        member.set_state(snapshot.state)
        self._apply(decision)
        self._memory.copied = (snapshot.member, snapshot.segment)
        for name, asked in decision.hyperparameters.items():
            found = self._memory.effective.get(name, asked)
            if found != asked:
                logger.warning("member %d: %s is %r after the copy, not %r", self.index, name, found, asked)
        logger.debug("member %d goes on from %d: %s", self.index, snapshot.member, self._memory.effective)

    def _roll_back(self, decision: Decision) -> None:
        """Go back to its own best weights; without any, begin again."""
        if self._memory.best is not None:
            self._land(decision, self._memory.best)
        else:
            self._pending = None
            self._build(decision)

    def _apply(self, decision: Decision) -> None:
        self._memory.effective = dict(self._live().apply(decision.hyperparameters))
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
        """Of its own for each time that it is built: the same bad luck must not repeat itself."""
        sequence = np.random.SeedSequence([self._settings.seed, self.index, self._memory.builds])
        return int(sequence.generate_state(1)[0])

    # -- help ------------------------------------------------------------------------------------------------------

    def _live(self) -> Member:
        if self._member is None:
            raise LookupError(f"member {self.index} could not be built")
        return self._member

    def _state_or_none(self) -> State | None:
        if self._member is None:
            return self._stored
        return self._guarded(self._member.get_state)

    def _guarded(self, call: Callable[[], Any]) -> Any:
        """What ``call`` returns; when the candidate raises, ``None``, and the member has failed."""
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
