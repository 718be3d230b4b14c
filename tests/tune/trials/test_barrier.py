"""Members of a synchronous run wait for each other, and are changed together."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from raytune_rl.records import KEEP, Decision, Report
from raytune_rl.tune.trials import barrier
from raytune_rl.tune.trials.barrier import Barrier


class World:
    """Trials by member, and what the barrier does with them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, members: int = 3, stops: Sequence[int] = ()) -> None:
        self.log: list[Any] = []
        self.free_slot, self.waiting, self.stops = True, False, stops
        self.trials = [
            SimpleNamespace(member=n, status="RUNNING", is_saving=False, last_result={}, is_finished=lambda: False)
            for n in range(members)
        ]
        waits = SimpleNamespace(
            waiting=lambda core: [None] if self.waiting else [], all_taken=lambda core: not self.free_slot
        )
        changes = SimpleNamespace(
            abilities=SimpleNamespace(in_place=True),
            prepare=lambda core, trial, decision, at, stays: self.log.append(("prepare", trial.member)),
            apply=self.apply,
        )
        controller = SimpleNamespace(actions=SimpleNamespace(copy_allowed=lambda segment: False))
        monkeypatch.setattr(barrier, "resume_training", lambda core, trial: self.log.append(("resume", trial.member)))
        monkeypatch.setattr(
            barrier.adapter, "pause_parked", lambda core, trial: self.log.append(("pause", trial.member))
        )
        self.barrier = Barrier(controller, self, waits, changes, decide=self.decide)  # type: ignore[arg-type]

    # What ``Members`` has.

    def __iter__(self) -> Any:
        return iter([(trial.member, trial) for trial in self.trials])

    def at(self, trial: Any, result: Any) -> int:
        return 1

    def note_checkpoint(self, trial: Any) -> None:
        pass

    # What Tune's controller has.

    def stop_trial(self, trial: Any) -> None:
        self.log.append(("stop", trial.member))

    def apply(self, core: Any, trial: Any, decision: Decision, result: Any, weights: Any, *, stays: bool) -> str:
        self.log.append(("apply", trial.member))
        return "CONTINUE"

    def decide(self, reports: Sequence[Report]) -> Any:
        self.log.append(("decide", [report.member for report in reports]))
        decisions = [
            Decision(
                member=r.member, segment=1, hyperparameters={}, positions=(), source=KEEP, stop=r.member in self.stops
            )
            for r in reports
        ]
        return SimpleNamespace(decisions=decisions)

    def arrive(self, member: int) -> str:
        report = Report(member=member, segment=0, steps=1, metrics={})
        return self.barrier.arrive(self, self.trials[member], report, {})  # type: ignore[arg-type]


def test_nobody_goes_on_before_all_have_arrived_and_been_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    assert not world.barrier.settle(world)
    assert world.arrive(2) == world.arrive(0) == "NOOP"
    assert not world.barrier.settle(world) and world.log == []
    assert world.barrier.holds(0) and not world.barrier.holds(1)
    world.arrive(1)
    world.trials[1].is_saving = True
    assert not world.barrier.settle(world) and world.log == []
    world.trials[1].is_saving = False
    assert world.barrier.settle(world)
    assert world.log[0] == ("decide", [0, 1, 2])
    assert [what for what, _ in world.log[1:]] == ["prepare"] * 3 + ["apply", "resume"] * 3
    assert not world.barrier.holds(0) and not world.barrier.settle(world)


def test_a_member_that_needs_a_slot_gets_that_of_one_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    world.arrive(1)
    world.waiting, world.free_slot = True, False
    assert not world.barrier.settle(world)
    assert world.log == [("pause", 1)]
    assert world.arrive(2) == "PAUSE"


def test_who_has_ended_or_died_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    world.arrive(0), world.arrive(1)
    world.barrier.forget(1)  # its actor died: it has to arrive again
    world.trials[2].is_finished = lambda: True
    assert not world.barrier.settle(world)
    world.arrive(1)
    assert world.barrier.settle(world) and world.log[0] == ("decide", [0, 1])


def test_members_that_are_told_to_stop_are_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, members=2, stops=(0,))
    world.arrive(0), world.arrive(1)
    assert world.barrier.settle(world)
    assert [entry for entry in world.log if entry[1] == 0] == [("stop", 0)]
    assert ("apply", 1) in world.log
