"""When a trial has to give way: once as many run as can run, and not while others are just starting."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from raytune_rl.tune.trials.slots import PATIENCE, Slots


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def trials(running: int, pending: int = 4, **needs: float) -> Any:
    factory = SimpleNamespace(required_resources=needs or {"CPU": 1.0})
    statuses = ["RUNNING"] * running + ["PENDING"] * pending
    return [SimpleNamespace(status=status, placement_group_factory=factory) for status in statuses]


def test_slots_come_from_the_scarcest_resource() -> None:
    slots = Slots(cluster=lambda: {"CPU": 16.0, "GPU": 2.0}, clock=Clock())
    assert not slots.all_taken(trials(3, CPU=1, GPU=0.5))
    assert slots.all_taken(trials(4, CPU=1, GPU=0.5))


def test_nobody_gives_way_while_another_actor_starts() -> None:
    slots = Slots(cluster=lambda: {"CPU": 2.0}, clock=Clock())
    assert not slots.all_taken(trials(0))
    assert not slots.all_taken(trials(1))
    assert slots.all_taken(trials(2))


def test_slots_that_somebody_else_uses_are_given_up() -> None:
    clock = Clock()
    slots = Slots(cluster=lambda: {"CPU": 8.0}, clock=clock)
    assert not slots.all_taken(trials(2))
    clock.now = PATIENCE + 1
    assert slots.all_taken(trials(2))
    assert not slots.all_taken(trials(1))


def test_trials_without_needs_never_wait() -> None:
    assert not Slots(cluster=dict, clock=Clock()).all_taken(trials(100, CPU=0))
