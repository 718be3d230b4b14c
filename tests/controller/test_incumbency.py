"""Who holds the record, and when it is good enough."""

from __future__ import annotations

import math

import pytest

from raytune_rl.controller.incumbency import Incumbency
from raytune_rl.records import Mode, Report, Status


def report(value: float, *, member: int = 0, status: Status = "ok") -> Report:
    return Report(member=member, segment=3, steps=1, metrics={"m": value}, hyperparameters={"lr": 0.1}, status=status)


@pytest.mark.parametrize(("mode", "best"), [("min", 1.0), ("max", 3.0)])
def test_the_best_sound_report_holds_it(mode: Mode, best: float) -> None:
    incumbency = Incumbency(metric="m", mode=mode)
    assert incumbency.holder is None and incumbency.score is None
    for member, value in enumerate([2.0, 1.0, 3.0, math.nan, 1.0, 3.0]):
        incumbency.take(report(value, member=member))
    for failed in (0.0, 9.0):
        incumbency.take(report(failed, status="failed"))
    assert incumbency.holder is not None
    assert (incumbency.holder.value, incumbency.holder.member) == (best, {"min": 1, "max": 2}[mode]), "first come"
    assert incumbency.score is not None


@pytest.mark.parametrize(("mode", "value", "reached"), [("min", 0.5, True), ("min", 0.6, False), ("max", 0.6, True)])
def test_a_target_counts_when_it_is_met(mode: Mode, value: float, reached: bool) -> None:
    incumbency = Incumbency(metric="m", mode=mode, target=0.5)
    assert incumbency.reached is None
    incumbency.take(report(value))
    assert bool(incumbency.reached) == reached
    if reached:
        assert incumbency.reached == f"m reached {value:.6g} (target 0.5)"


def test_of_equal_reports_the_one_with_the_lower_loss_holds_it() -> None:
    incumbency = Incumbency(metric="accuracy", mode="max")
    for member, (accuracy, loss) in enumerate([(0.9, 0.4), (0.9, 0.3), (0.9, math.nan), (0.9, 0.35), (0.8, 0.1)]):
        metrics = {"accuracy": accuracy, "validation_loss": loss}
        incumbency.take(Report(member=member, segment=0, steps=1, metrics=metrics, hyperparameters={}))
    assert incumbency.holder is not None and incumbency.holder.member == 1
