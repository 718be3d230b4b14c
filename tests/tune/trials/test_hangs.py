"""Who counts as hung, and who does not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from raytune_rl.tune.trials import hangs
from raytune_rl.tune.trials.hangs import LAG, LOOK, Silence


class World:
    """Two trials that run, and are at work unless said otherwise."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.trials = [SimpleNamespace(trial_id=name, status="RUNNING") for name in "ab"]
        self.idle: set[str] = set()
        monkeypatch.setattr(hangs, "is_at_work", lambda _, trial: trial.trial_id not in self.idle)

    def __call__(self) -> float:
        return self.now

    def get_trials(self) -> list[Any]:
        return self.trials

    def hung(self, silence: Silence, seconds: float) -> list[str]:
        """Whoever is found while time goes by in small steps."""
        found, end = [], self.now + seconds
        while self.now < end:
            self.now += LOOK
            found += [trial.trial_id for trial in silence.hung(self)]
        return found


def test_who_reports_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    silence = Silence(3.0, clock=world)
    assert world.hung(silence, 2.5) == []
    silence.heard(world.trials[0])
    assert world.hung(silence, 2.0) == ["b"]
    assert world.hung(silence, 2.0) == ["a"]


def test_who_waits_or_does_not_run_is_not_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    silence = Silence(3.0, clock=world)
    world.idle.add("a")
    world.trials[1].status = "PAUSED"
    assert world.hung(silence, 20.0) == []
    world.idle.clear()
    assert world.hung(silence, 2.0) == []


def test_time_in_which_the_driver_slept_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    silence = Silence(3.0, clock=world)
    world.now += 1000.0
    assert silence.hung(world) == []
    assert world.hung(silence, 3.0 - LAG + LOOK) == ["a", "b"]


def test_without_a_timeout_nobody_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    assert world.hung(Silence(None, clock=world), 1000.0) == []
