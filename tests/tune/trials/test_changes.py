"""How decisions are carried out: what a cluster shows only now and then, by the order of events."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.experiment import Trial

from raytune_rl.hyperparameters import STAY
from raytune_rl.records import Decision
from raytune_rl.tune.trials.actor import Outcome
from raytune_rl.tune.trials.adapter import Abilities
from raytune_rl.tune.trials.changes import NOOP, Changes


@pytest.fixture
def woken(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    resumed: list[Any] = []
    monkeypatch.setattr("raytune_rl.tune.trials.changes.resume_training", lambda _, trial: resumed.append(trial))
    return resumed


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[Any, Outcome], None]]:
    """What is called when a running actor has been changed."""
    callbacks: list[Callable[[Any, Outcome], None]] = []

    def call(controller: Any, trial: Any, *arguments: Any, on_result: Any, on_error: Any) -> None:
        callbacks.append(on_result)

    monkeypatch.setattr("raytune_rl.tune.trials.changes.call_in_place", call)
    return callbacks


@pytest.mark.parametrize("saving", [True, False])
def test_a_trial_that_was_changed_trains_on_when_it_is_saved(
    saving: bool, woken: list[Any], answers: list[Any]
) -> None:
    """Tune keeps the answer to a report until the trial is saved, and takes it for the answer to the next one, too."""
    trial: Any = SimpleNamespace(
        config={"lr": 0.1}, status=Trial.RUNNING, is_saving=saving, set_config=lambda config: None
    )
    changes = make_changes()
    decision = Decision(member=0, segment=1, hyperparameters={"lr": 0.2}, positions=(0.5,), action=(STAY,))
    assert changes.apply(None, trial, decision, {}, None, stays=True) == NOOP
    answers[0](trial, Outcome(done=True))
    changes.settle(None)
    assert woken == ([] if saving else [trial])
    trial.is_saving = False
    changes.settle(None)
    changes.settle(None)
    assert woken == [trial]


def test_a_trial_that_has_ended_meanwhile_is_not_woken(woken: list[Any], answers: list[Any]) -> None:
    trial: Any = SimpleNamespace(
        config={"lr": 0.1}, status=Trial.RUNNING, is_saving=True, set_config=lambda config: None
    )
    changes = make_changes()
    decision = Decision(member=0, segment=1, hyperparameters={"lr": 0.2}, positions=(0.5,), action=(STAY,))
    changes.apply(None, trial, decision, {}, None, stays=True)
    answers[0](trial, Outcome(done=True))
    trial.status, trial.is_saving = Trial.ERROR, False
    changes.settle(None)
    assert woken == []


def test_a_function_that_was_paused_before_its_reset_comes_back_by_itself() -> None:
    """Tune may carry out a pause that it had kept for when the trial is saved, though the last answer was another."""
    scheduled: list[str] = []
    trial: Any = Scheduled(
        trial_id="a", config={"lr": 0.1}, status=Trial.RUNNING, is_saving=True, log_to_file=(None, None)
    )
    core: Any = SimpleNamespace(
        _trial_to_actor={}, _schedule_trial_task=lambda trial, method, **_: scheduled.append(method)
    )
    changes = make_changes(Abilities(function=True, saves=True, restarts=True), trial)
    decision = Decision(member=0, segment=1, hyperparameters={"lr": 0.2}, positions=(0.5,), action=(STAY,))
    assert changes.apply(core, trial, decision, {}, None, stays=True) == NOOP
    trial.status, trial.is_saving = Trial.PAUSED, False
    changes.settle(core)
    assert scheduled == [] and trial.config == {"lr": 0.2}
    core._trial_to_actor[trial] = "another actor"
    changes.settle(core)
    assert scheduled == []  # it starts by its configuration; there is nothing left to be done


class Scheduled(SimpleNamespace):
    """As much of a trial as is needed."""

    __hash__ = object.__hash__

    def set_config(self, config: dict[str, Any]) -> None:
        self.config = config


def make_changes(abilities: Abilities | None = None, trial: Any = None) -> Changes:
    track = SimpleNamespace(open=lambda **_: None, amend=lambda **_: None)
    members: Any = SimpleNamespace(at=lambda trial, result: 1, track=lambda trial: track, trial=lambda member: trial)
    copies: Any = SimpleNamespace(
        awaited_by=lambda member: False, settle=lambda parked: False, origin=lambda source: {}
    )
    return Changes(members, copies, abilities or Abilities(saves=True, in_place=True), changed=lambda: None)
