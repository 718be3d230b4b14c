"""The best report so far, and whether it has reached the target."""

from __future__ import annotations

import math

import pytest

from raytune_rl.controller.incumbent import IncumbentTracker
from raytune_rl.records import Mode, Report, Status


def report(value: float, *, member: int = 0, status: Status = "ok") -> Report:
    return Report(member=member, segment=3, steps=1, metrics={"m": value}, hyperparameters={"lr": 0.1}, status=status)


@pytest.mark.parametrize(("mode", "best"), [("min", 1.0), ("max", 3.0)])
def test_the_best_sound_report_is_the_incumbent(mode: Mode, best: float) -> None:
    tracker = IncumbentTracker(metric="m", mode=mode)
    assert tracker.incumbent is None and tracker.score is None
    for member, value in enumerate([2.0, 1.0, 3.0, math.nan, 1.0, 3.0]):
        tracker.update(report(value, member=member))
    for failed in (0.0, 9.0):
        tracker.update(report(failed, status="failed"))
    assert tracker.incumbent is not None
    assert (tracker.incumbent.value, tracker.incumbent.member) == (best, {"min": 1, "max": 2}[mode]), "first come"
    assert tracker.score is not None


@pytest.mark.parametrize(("mode", "value", "reached"), [("min", 0.5, True), ("min", 0.6, False), ("max", 0.6, True)])
def test_the_target_is_reached_when_a_value_is_as_good(mode: Mode, value: float, reached: bool) -> None:
    tracker = IncumbentTracker(metric="m", mode=mode, target=0.5)
    assert tracker.target_reached is None
    tracker.update(report(value))
    assert bool(tracker.target_reached) == reached
    if reached:
        assert tracker.target_reached == f"m reached {value:.6g} (target 0.5)"


def test_of_equal_reports_the_one_with_the_lower_loss_is_the_incumbent() -> None:
    tracker = IncumbentTracker(metric="accuracy", mode="max")
    for member, (accuracy, loss) in enumerate([(0.9, 0.4), (0.9, 0.3), (0.9, math.nan), (0.9, 0.35), (0.8, 0.1)]):
        metrics = {"accuracy": accuracy, "validation_loss": loss}
        tracker.update(Report(member=member, segment=0, steps=1, metrics=metrics, hyperparameters={}))
    assert tracker.incumbent is not None and tracker.incumbent.member == 1
