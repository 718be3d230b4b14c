"""Taking turns on fewer slots than trials."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from raytune_rl.tune.trials import turns
from raytune_rl.tune.trials.slots import Slots
from raytune_rl.tune.trials.turns import LEAD, Turns


class World:
    """Trials by name with their status and the segments that they have behind them, on two slots."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **trials: tuple[str, int]) -> None:
        needs = SimpleNamespace(required_resources={"CPU": 1.0})
        self.trials = {
            name: SimpleNamespace(trial_id=name, status=status, is_saving=False, placement_group_factory=needs)
            for name, (status, _) in trials.items()
        }
        self.segments = {name: segments for name, (_, segments) in trials.items()}
        self.reuses = True
        self.held: set[str] = set()
        self.handed: set[str] = set()
        self.resumed: list[str] = []
        self.paused: list[str] = []
        members: Any = SimpleNamespace(turn=lambda trial: (self.segments[trial.trial_id], trial.trial_id))
        self.turns = Turns(
            members, is_held=lambda trial: trial.trial_id in self.held, slots=Slots(cluster=lambda: {"CPU": 2.0})
        )
        monkeypatch.setattr(turns, "resume_training", lambda _, trial: self.resumed.append(trial.trial_id))
        monkeypatch.setattr(turns, "is_being_handed_an_actor", lambda _, trial: trial.trial_id in self.handed)
        monkeypatch.setattr(turns, "pause_parked", lambda _, trial: self.paused.append(trial.trial_id))
        monkeypatch.setattr(turns, "reuses_actors", lambda _: self.reuses)

    def get_trials(self) -> list[Any]:
        return list(self.trials.values())

    def set(self, changes: Mapping[str, str]) -> None:
        for name, status in changes.items():
            self.trials[name].status = status

    def rests(self, name: str) -> bool:
        return self.turns.rests(self, self.trials[name])

    def gives_way(self, name: str) -> bool:
        return self.turns.gives_way(self, self.trials[name])


def test_who_has_trained_least_comes_next_and_nobody_is_named_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, a=("RUNNING", 3), b=("PAUSED", 2), c=("PENDING", 1), d=("PENDING", 0))
    world.held.add("d")
    assert world.turns.next(world) is world.trials["c"]
    world.handed.add("c")  # its actor is on its way, so the next slot is for another
    assert world.turns.next(world) is world.trials["b"]
    world.handed.add("b")
    assert world.turns.next(world) is None


def test_a_slot_is_given_to_who_has_not_trained_more(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, a=("RUNNING", 3), b=("RUNNING", 4), c=("PAUSED", 3))
    assert world.gives_way("a") and world.gives_way("b")
    world.segments["c"] = 4
    assert not world.gives_way("a") and world.gives_way("b")
    world.set({"b": "PAUSED"})  # now a slot is free
    assert not world.gives_way("a")


def test_a_slot_is_given_away_less_often_where_that_starts_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, a=("RUNNING", 3 + LEAD), b=("RUNNING", 2 + LEAD), c=("PAUSED", 3))
    world.reuses = False
    assert world.gives_way("a") and not world.gives_way("b")


def test_who_is_far_ahead_rests_until_the_other_has_started(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, a=("RUNNING", LEAD - 1), b=("PENDING", 0))
    assert not world.rests("a")
    world.segments["a"] = LEAD
    assert world.rests("a")
    world.turns.settle(world)
    assert world.resumed == world.paused == []
    world.set({"b": "RUNNING"})
    world.turns.settle(world)
    world.turns.settle(world)
    assert world.resumed == ["a"] and world.paused == []


def test_who_has_rested_gives_way_where_others_still_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, a=("RUNNING", LEAD), b=("PENDING", 0), c=("PENDING", 0))
    assert world.rests("a")
    world.set({"b": "RUNNING"})
    world.trials["a"].is_saving = True
    world.turns.settle(world)
    assert world.paused == [], "it cannot be paused before it is saved"
    world.trials["a"].is_saving = False
    world.turns.settle(world)
    assert world.paused == ["a"] and world.resumed == []


def test_nobody_rests_for_who_waits_for_something_else_or_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, a=("RUNNING", LEAD), b=("PAUSED", 0))
    world.held.add("b")  # it waits for weights, perhaps for those of the first
    assert not world.rests("a")
    world.held.clear()
    assert world.rests("a")
    world.set({"a": "ERROR"})
    world.turns.settle(world)
    world.set({"a": "RUNNING", "b": "RUNNING"})
    world.turns.settle(world)
    assert world.resumed == []
