"""Who counts as hung, and who does not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from raytune_rl.tune.trials import hangs
from raytune_rl.tune.trials.hangs import CHECK_PERIOD, MAX_COUNTED, HangDetector


class World:
    """Two trials that run, and are at work except those in ``idle``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.trials = [SimpleNamespace(trial_id=name, status="RUNNING") for name in "ab"]
        self.idle: set[str] = set()
        monkeypatch.setattr(hangs, "is_at_work", lambda _, trial: trial.trial_id not in self.idle)

    def __call__(self) -> float:
        return self.now

    def get_trials(self) -> list[Any]:
        return self.trials

    def hung(self, detector: HangDetector, seconds: float) -> list[str]:
        """Who is found to hang while time passes in small steps."""
        hung, end = [], self.now + seconds
        while self.now < end:
            self.now += CHECK_PERIOD
            hung += [trial.trial_id for trial in detector.hung(self)]
        return hung


def test_who_reports_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    detector = HangDetector(3.0, clock=world)
    assert world.hung(detector, 2.5) == []
    detector.reported(world.trials[0])
    assert world.hung(detector, 2.0) == ["b"]
    assert world.hung(detector, 2.0) == ["a"]


def test_who_waits_or_does_not_run_is_not_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    detector = HangDetector(3.0, clock=world)
    world.idle.add("a")
    world.trials[1].status = "PAUSED"
    assert world.hung(detector, 20.0) == []
    world.idle.clear()
    assert world.hung(detector, 2.0) == []


def test_time_in_which_the_driver_slept_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    detector = HangDetector(3.0, clock=world)
    world.now += 1000.0
    assert detector.hung(world) == []
    assert world.hung(detector, 3.0 - MAX_COUNTED + CHECK_PERIOD) == ["a", "b"]


def test_without_a_timeout_nobody_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    assert world.hung(HangDetector(None, clock=world), 1000.0) == []
