"""Results become reports, and values find their place in nested configurations."""

import math
from types import SimpleNamespace
from typing import Any

import pytest

from raytune_rl.tune.trials.report import get_values, is_out_of_budget, make_report, set_values
from raytune_rl.tune.trials.track import Track

RESULT: dict[str, Any] = {
    "total": 3.0,
    "inner/loss": 0.25,
    "loss_slope": -0.1,
    "training_iteration": 10,
    "time_total_s": 4.0,
    "time_this_iter_s": 0.5,
    "pid": 17,
    "hostname": "here",
    "done": False,
    "should_checkpoint": True,
    "config/lr": 0.1,
    "config/optimizer/momentum": 0.9,
}


def report_of(result: dict[str, Any], **changes: Any) -> Any:
    track = Track.start({"lr": 0.1})
    track.open(at=5, seconds=1.5, values={"lr": 0.1})
    trial = SimpleNamespace(trial_id="t", config={"lr": 0.7})
    arguments = {"names": ("lr", "optimizer/momentum"), "metric": "total", "done": False, **changes}
    return make_report(trial, result, member=2, track=track, at=10, **arguments)  # type: ignore[arg-type]


def test_a_result_becomes_a_report() -> None:
    report = report_of(RESULT)
    assert (report.member, report.segment, report.steps, report.decision) == (2, 1, 10, 1)
    assert report.metrics == {"total": 3.0, "inner/loss": 0.25, "loss_slope": -0.1}
    assert report.signals == {"loss_slope": -0.1}
    assert report.hyperparameters == {"lr": 0.1, "optimizer/momentum": 0.9}
    assert report.seconds == pytest.approx(2.5)
    assert (report.status, report.node) == ("ok", "here")


def test_a_number_of_the_hyperparameters_own_name_is_its_effective_value() -> None:
    assert report_of({**RESULT, "lr": 0.05}).hyperparameters["lr"] == 0.05


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_metric_that_is_no_number_is_a_divergence(value: float) -> None:
    assert report_of({**RESULT, "total": value}).status == "diverged"


def test_time_that_runs_backwards_after_a_restore_is_not_reported() -> None:
    assert report_of({**RESULT, "time_total_s": 1.0}).seconds == 0.5


def test_values_find_their_place_and_leave_the_original_alone() -> None:
    config = {"lr": 1, "optimizer": {"momentum": 0.5, "beta": 1}, "a/b": 3}
    values = get_values(config, ["lr", "optimizer/momentum", "a/b", "missing", "optimizer/missing"])
    assert values == {"lr": 1, "optimizer/momentum": 0.5, "a/b": 3}
    changed = set_values(config, {"optimizer/momentum": 0.9, "a/b": 4, "new/entry": "x"})
    assert changed == {"lr": 1, "optimizer": {"momentum": 0.9, "beta": 1}, "a/b": 4, "new": {"entry": "x"}}
    assert config == {"lr": 1, "optimizer": {"momentum": 0.5, "beta": 1}, "a/b": 3}


def test_rounding_is_no_change() -> None:
    assert set_values({"lr": 0.1, "n": 3}, {"lr": 0.10000000000000006, "n": 4}) == {"lr": 0.1, "n": 4}
    assert set_values({"flag": True}, {"flag": 1})["flag"] is not True


def test_a_stop_criterion_is_told_from_the_trials_own_end() -> None:
    trial: Any = SimpleNamespace(stopping_criterion={"training_iteration": 10, "done": True})
    assert is_out_of_budget(trial, {"training_iteration": 10, "done": True})
    assert not is_out_of_budget(trial, {"training_iteration": 9, "done": True})
