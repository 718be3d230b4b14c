"""How reports end episodes and runs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raytune_rl.controller.endings import ending, is_last_segment, missing_metric
from raytune_rl.records import Report

REPORT = Report(
    member=0,
    segment=4,
    steps=50,
    metrics={"loss": 0.5, "accuracy": 0.9},
    signals={},
    hyperparameters={"lr": 0.1},
    decision=4,
    status="ok",
)


@pytest.mark.parametrize(
    ("changes", "segments", "stopping", "why"),
    [
        ({}, None, False, None),
        ({}, 6, False, None),
        ({}, 5, False, "budget"),
        ({}, 4, False, "budget"),  # it came late, from before the budget was cut
        ({}, 6, True, "stopped"),
        ({"done": True}, 5, True, "done"),
        ({"status": "hung", "done": True}, 5, True, "failed"),
    ],
)
def test_the_first_reason_counts(changes: dict, segments: int | None, stopping: bool, why: str | None) -> None:
    report = replace(REPORT, **changes)
    assert ending(report, segments=segments, stopping=stopping) == why
    assert is_last_segment(report, segments=segments) == (segments in (4, 5))


def test_a_missing_metric_is_told_with_those_that_are_there() -> None:
    message = missing_metric([REPORT], "f1")
    assert message == "metric is 'f1', which the candidate does not report; it reports accuracy, loss."
    assert missing_metric([REPORT], "loss") is None
    # One that failed has nothing to report, and one that diverged has.
    assert missing_metric([replace(REPORT, status="failed")], "f1") is None
    assert missing_metric([replace(REPORT, metrics={})], "f1") is None
    assert missing_metric([replace(REPORT, status="diverged")], "f1") is not None
