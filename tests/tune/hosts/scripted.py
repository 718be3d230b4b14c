"""A world small enough to know every number in it: a candidate that counts, and a controller that follows a script."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from raytune_rl.population.candidate import MemberContext, SegmentResult, State
from raytune_rl.records import KEEP, Decision, Report, Source, Step, Value

Trick = Callable[["CountingMember", int], None]
"""What a member does in a segment (its own count of calls) beside counting: raise, hang, kill, write NaN ..."""


@dataclass(frozen=True, kw_only=True)
class Counting:
    """Members add ``lr`` to their ``score`` and one to ``trained`` at every step, and draw some ``noise``.

    ``lasts``: the steps that a member makes before it says it is done. ``ballast``: size of the state in bytes.
    """

    trick: Trick | None = None
    lasts: int | None = None
    ballast: int = 0
    seconds: float = 0.0

    def check(self, hyperparameters: Mapping[str, Value]) -> None:
        pass

    def build(self, context: MemberContext, hyperparameters: Mapping[str, Value]) -> CountingMember:
        return CountingMember(self, context, hyperparameters)

    def export(self, state: State, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "score.txt").write_text(str(state["score"]))

    def test(self, state: State) -> Mapping[str, float]:
        return {}


class CountingMember:
    def __init__(self, task: Counting, context: MemberContext, hyperparameters: Mapping[str, Value]) -> None:
        self.task, self.context = task, context
        self.lr = float(hyperparameters["lr"])
        self.score, self.steps, self.calls = 0.0, 0, 0
        self.weights = np.full(task.ballast, context.member, dtype=np.uint8)
        self.random = np.random.default_rng(context.seed)

    def apply(self, hyperparameters: Mapping[str, Value]) -> Mapping[str, Value]:
        self.lr = float(hyperparameters["lr"])
        return {"lr": self.lr}

    def train(self, length: int) -> SegmentResult:
        calls, self.calls = self.calls, self.calls + 1
        time.sleep(self.task.seconds)
        self.steps += length
        self.score += self.lr * length
        if self.task.trick is not None:
            self.task.trick(self, calls)
        return SegmentResult(
            metrics={"score": self.score, "noise": float(self.random.random())},
            steps=length,
            done=self.task.lasts is not None and self.steps >= self.task.lasts,
        )

    def get_state(self) -> State:
        return {
            "member": self.context.member,
            "score": self.score,
            "steps": self.steps,
            "calls": self.calls,
            "weights": self.weights.copy(),
            "random": self.random.bit_generator.state,
        }

    def set_state(self, state: State) -> None:
        self.score, self.weights = state["score"], state["weights"].copy()
        if state["member"] == self.context.member:
            self.steps, self.calls = state["steps"], state["calls"]
            self.random.bit_generator.state = state["random"]

    def close(self) -> None:
        pass


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a script answers to a report; ``None`` keeps the value."""

    lr: float | None = None
    source: Source = KEEP
    stop: bool = False


Script = Callable[[Report], Answer]


def member(index: int) -> Source:
    return Source(kind="member", member=index, name="best")


def best_of(index: int) -> Source:
    return Source(kind="checkpoint", member=index, name="own_best")


@dataclass
class ScriptedController:
    """Answers by a script; failed members restart from their own best, all stop after ``segments``."""

    segments: int
    script: Script = lambda report: Answer()
    start_lr: Callable[[int], float] = lambda index: float(index + 1)
    lr: dict[int, float] = field(default_factory=dict)
    calls: list[Any] = field(default_factory=list)

    def begin(self, index: int) -> Decision:
        self.lr.setdefault(index, self.start_lr(index))
        return Decision(member=index, segment=0, hyperparameters={"lr": self.start_lr(index)}, positions=(0.5,))

    def step(self, reports: Sequence[Report]) -> Step:
        self.calls.append(("step", tuple((r.member, r.segment) for r in reports)))
        decisions = tuple(self._decide(report) for report in reports)
        nothing = tuple(None for _ in reports)
        return Step(
            reports=tuple(reports),
            opened=nothing,
            rewards=tuple(0.0 for _ in reports),
            decisions=decisions,
            incumbent=None,
        )

    def _decide(self, report: Report) -> Decision:
        answer = self.script(report)
        if report.status != "ok" and answer.source == KEEP:
            answer = replace(answer, source=best_of(report.member))
        lr = self.lr[report.member] = self.lr[report.member] if answer.lr is None else answer.lr
        return Decision(
            member=report.member,
            segment=report.segment + 1,
            hyperparameters={"lr": lr},
            positions=(0.5,),
            source=answer.source,
            stop=answer.stop or report.done or report.segment + 1 >= self.segments,
        )

    def learn(self, *, wait: bool = False) -> None:
        self.calls.append(("learn", wait))

    def drop(self, members: Iterable[int]) -> None:
        self.calls.append(("drop", tuple(members)))

    def durable(self, member: int, segment: int) -> None:
        self.calls.append(("durable", member, segment))


@dataclass
class Recorder:
    """A sink in memory; a repeated segment replaces its row, as in the tables."""

    rows: dict[tuple[int, int], Report] = field(default_factory=dict)
    durable: dict[int, int] = field(default_factory=dict)
    flushes: int = 0
    after: Callable[[Recorder], None] = lambda recorder: None

    def record(self, step: Step) -> None:
        for report in step.reports:
            self.rows[report.member, report.segment] = report
        self.after(self)

    def flush(self) -> bool:
        self.flushes += 1
        self.durable = {}
        for index, segment in self.rows:
            self.durable[index] = max(segment, self.durable.get(index, -1))
        return True

    def of(self, index: int) -> list[Report]:
        """A member's reports, by segment."""
        return [self.rows[key] for key in sorted(self.rows) if key[0] == index]


def once(path: str) -> bool:
    """True for the first caller on this machine (files survive a killed process)."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    return True
