"""The current state of a run: the numbers that all displays show.

Adding a step takes microseconds, since the driver that calls it also makes decisions. Sorting, rates and texts are
computed only when they are displayed.
"""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from raytune_rl.records import FLOOR, Decision, Incumbent, Mode, Report, Step, Value
from raytune_rl.texts import number

RATE_WINDOW = 20.0
"""The rate of reports is averaged over this many seconds."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is going to run.

    Attributes:
        name: of the experiment.
        members: size of the population.
        metric: what is optimised, and ``mode`` its direction.
        segments: per member; None if only time or a target ends the run.
        hyperparameters: names, in the order of ``Decision.positions``.
        directory: the run directory, as the user can paste it.
        algorithm: name of the agent's algorithm or of the rule.
        budget_s: seconds from now after which the run stops; None if it has no such limit.
        done: by member, the number of segments that earlier sessions of a resumed run have trained.
        loadable: whether ``raytune_rl.load`` can read the best model.
        network: name of the function that must be passed to ``raytune_rl.load``; empty if none is needed.
    """

    name: str
    members: int
    metric: str
    mode: Mode
    directory: str
    hyperparameters: tuple[str, ...] = ()
    segments: int | None = None
    algorithm: str = ""
    budget_s: float | None = None
    done: Mapping[int, int] = field(default_factory=dict)
    loadable: bool = True
    network: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One member.

    Attributes:
        report: its last report.
        best: its best value so far.
        decision: the decision that followed the last report.
        changed: the last decision that changed something: the report before it, the decision, and the positions before.
    """

    report: Report
    best: float | None
    decision: Decision | None = None
    changed: tuple[Report, Decision, tuple[float, ...]] | None = None

    @property
    def over(self) -> bool:
        return self.decision is not None and self.decision.stop


@dataclass(frozen=True, kw_only=True)
class View:
    """A consistent snapshot of the board; ``rows`` are ordered by member."""

    plan: Plan
    rows: tuple[Row, ...]
    incumbent: Incumbent | None
    elapsed: float
    rate: float
    reports: int
    version: int
    transitions: int
    failures: int
    copies: int
    rollbacks: int

    @property
    def segment(self) -> int:
        """The number of segments that all members still in training have finished."""
        reached = dict.fromkeys(range(self.plan.members), 0) | dict(self.plan.done)
        reached |= {row.report.member: row.report.segment + 1 for row in self.rows}
        over = {row.report.member for row in self.rows if row.over}
        return min(reached[member] for member in reached.keys() - over or reached)

    @property
    def remaining(self) -> int | None:
        """The number of reports still to come; None if unknown."""
        if self.plan.segments is None:
            return None
        seen = {row.report.member for row in self.rows}
        unseen = [self.plan.done.get(member, 0) for member in range(self.plan.members) if member not in seen]
        under_way = [row.report.segment + 1 for row in self.rows if not row.over]
        return sum(max(0, self.plan.segments - done) for done in unseen + under_way)

    @property
    def share(self) -> float | None:
        """The share of the run that is done, in [0, 1]; None if unknown."""
        shares = []
        if self.plan.segments is not None and self.remaining is not None:
            shares.append(1 - self.remaining / max(1, self.plan.members * self.plan.segments))
        if self.plan.budget_s:
            shares.append(self.elapsed / self.plan.budget_s)
        return min(1.0, max(shares)) if shares else None

    @property
    def eta(self) -> float | None:
        """Seconds to the end; None if unknown."""
        limits = []
        if self.remaining is not None and self.rate > 0:
            limits.append(self.remaining / self.rate)
        if self.plan.budget_s is not None:
            limits.append(max(0.0, self.plan.budget_s - self.elapsed))
        return min(limits) if limits else None

    def value(self, row: Row) -> float:
        return row.report.metrics.get(self.plan.metric, math.nan)

    def ranked(self) -> list[Row]:
        """Best member first, by its last report; those without a value last."""
        sign = 1 if self.plan.mode == "min" else -1

        def key(row: Row) -> tuple[bool, float]:
            value = self.value(row)
            return (not math.isfinite(value), sign * value if math.isfinite(value) else 0.0)

        return sorted(self.rows, key=key)

    def median(self, rows: Iterable[Row]) -> float:
        """The median of the rows' last values; NaN if there are none."""
        values = [value for value in map(self.value, rows) if math.isfinite(value)]
        return statistics.median(values) if values else math.nan


@dataclass
class Board:
    """Takes steps from the driver's thread, and gives views to the display's thread."""

    plan: Plan
    clock: Callable[[], float] = time.monotonic
    _rows: dict[int, Row] = field(default_factory=dict)
    _incumbent: Incumbent | None = None
    _made: int = 0
    _version: int = 0
    _transitions: int = 0
    _failures: int = 0
    _copies: int = 0
    _rollbacks: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._started = self.clock()
        self._ticks: deque[tuple[float, int]] = deque([(self._started, 0)])
        self._trained = dict(self.plan.done)
        self._reports = sum(self.plan.done.values())

    def update(self, step: Step) -> None:
        """Add one step of the controller."""
        with self._lock:
            for report, opened, decision in zip(step.reports, step.opened, step.decisions, strict=True):
                self._rows[report.member] = self._row(report, opened, decision)
                if report.segment >= self._trained.get(report.member, 0):  # a segment trained again does not count
                    self._trained[report.member] = report.segment + 1
                    self._reports += 1
                self._failures += report.status != "ok"
                self._copies += report.copied_from is not None and report.copied_from != report.member
                self._rollbacks += decision.source.name == FLOOR
                self._transitions += bool(opened.action)
                self._version = max(self._version, decision.policy_version)
            self._incumbent = step.incumbent
            self._made += len(step.reports)
            self._tick()

    def view(self) -> View:
        """The current state of the board."""
        with self._lock:
            now = self.clock()
            oldest, before = self._ticks[0]
            recent = self._made - before
            return View(
                plan=self.plan,
                rows=tuple(self._rows[member] for member in sorted(self._rows)),
                incumbent=self._incumbent,
                elapsed=now - self._started,
                rate=recent / (now - oldest) if now > oldest else 0.0,
                reports=self._reports,
                version=self._version,
                transitions=self._transitions,
                failures=self._failures,
                copies=self._copies,
                rollbacks=self._rollbacks,
            )

    def _tick(self) -> None:
        """Remember one count per second, back to the start of the window."""
        now = self.clock()
        if now - self._ticks[-1][0] >= 1.0:
            self._ticks.append((now, self._made))
        while len(self._ticks) > 1 and now - self._ticks[0][0] > RATE_WINDOW:
            self._ticks.popleft()

    def _row(self, report: Report, opened: Decision, decision: Decision) -> Row:
        old = self._rows.get(report.member)
        value = report.metrics.get(self.plan.metric, math.nan)
        best = old.best if old else None
        if report.status == "ok" and math.isfinite(value) and (best is None or self._better(value, best)):
            best = value
        before = (old.decision if old else None) or opened
        positions = before.positions
        row = Row(report=report, best=best, decision=decision, changed=old.changed if old else None)
        changes = decision.source.kind != "keep" or positions != decision.positions
        return replace(row, changed=(report, decision, positions)) if changes else row

    def _better(self, value: float, best: float) -> bool:
        return value < best if self.plan.mode == "min" else value > best


def action_text(row: Row, plan: Plan) -> str:
    """The last change of a member in a few words; empty if there was none."""
    if row.over:
        finished = row.report.done or (plan.segments is not None and row.report.segment >= plan.segments - 1)
        return "finished" if finished else "stopped"
    if row.changed is None:
        return ""
    report, decision, positions = row.changed
    source = decision.source
    when = f" @{decision.segment}"
    if source.kind == "checkpoint" and source.member == report.member:
        by_floor = "floor: " if source.name == FLOOR else ""
        return by_floor + ("back to own best" if report.status == "ok" else "restarted") + when
    if source.kind != "keep":
        return f"copy of {source.member}{when}"
    moves = zip(plan.hyperparameters, positions, decision.positions, strict=False)
    # plus and minus, not arrows: every terminal can show them
    return " ".join(f"{name}{'+' if new > old else '-'}" for name, old, new in moves if new != old) + when


def clock_text(seconds: float | None) -> str:
    """``4:05``, ``1:02:03``; dashes if unknown."""
    if seconds is None or not math.isfinite(seconds):
        return "--:--"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def values_text(values: Mapping[str, Value]) -> str:
    """``lr 3.2e-4, dropout 0.12``."""
    return ", ".join(f"{name} {number(value)}" for name, value in values.items())
