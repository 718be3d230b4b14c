"""Decisions: positions under a schedule, prescribed values, and what is reconstructed from a report."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raytune_rl.controller.decisions import DecisionFactory
from raytune_rl.controller.failures import DIVERGENCE_FACTOR
from raytune_rl.mdp.state import MemberState
from raytune_rl.records import Report, Status
from tests.controller.worlds import SPACE

MIDDLE = (0.5,) * len(SPACE)
FACTORY = DecisionFactory(space=SPACE, schedule="cosine", segments=4)
STATE = replace(MemberState.start(0, MIDDLE), segment=3)


def report(status: Status = "ok", **values: float | str) -> Report:
    return Report(member=0, segment=2, steps=3, metrics={}, hyperparameters=values, status=status)


def test_the_schedule_multiplies_learning_rates_and_leaves_positions_alone() -> None:
    first, last = FACTORY.make(0, 0, MIDDLE), FACTORY.make(0, 3, MIDDLE)
    assert float(last.hyperparameters["lr"]) < float(first.hyperparameters["lr"])
    assert first.hyperparameters["dropout"] == last.hyperparameters["dropout"]
    assert first.positions == last.positions == MIDDLE


def test_prescribed_values_replace_positions_unless_they_are_ignored() -> None:
    values = [{"lr": lr, "dropout": 0.1, "init": "xavier"} for lr in (0.1, 0.2)]
    factory = replace(FACTORY, prescribed=values)
    assert [factory.make(0, segment, MIDDLE).hyperparameters["lr"] for segment in (0, 1, 3)] == [0.1, 0.2, 0.2]
    assert factory.make(0, 1, MIDDLE, ignores_prescribed=True) == FACTORY.make(0, 1, MIDDLE)


def test_a_report_gives_its_decision_back() -> None:
    decision = FACTORY.make(0, 2, (0.3, 0.4, 0.0))
    again = FACTORY.reconstructed(report(**decision.hyperparameters), STATE)  # type: ignore[arg-type]
    assert again.segment == 2 and again.positions[:2] == pytest.approx(decision.positions[:2])
    assert FACTORY.reconstructed(report(lr=0.1), STATE).positions == MIDDLE, "some values are missing"


@pytest.mark.parametrize(("status", "share"), [("failed", 1.0), ("diverged", DIVERGENCE_FACTOR)])
def test_a_restart_is_calmer_after_a_divergence(status: Status, share: float) -> None:
    factory = replace(FACTORY, schedule="constant")
    start = factory.make(0, 0, MIDDLE)
    restart = factory.restart(report(status), STATE, start)
    assert (restart.segment, restart.source.kind, restart.source.name) == (3, "checkpoint", "own_best")
    assert restart.hyperparameters["lr"] == pytest.approx(float(start.hyperparameters["lr"]) * share)
