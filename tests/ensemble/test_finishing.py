from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from raytune_rl import load
from raytune_rl.ensemble.finishing import judged_ensemble
from raytune_rl.ensemble.settings import Ensemble
from tests.ensemble.members import TASK, inputs, trained


def judged(settings: Ensemble | None = None, candidate: object = TASK, states=None, metric: str = "validation_loss"):
    kept, segments = trained()
    chosen = settings or Ensemble(size=3)
    return judged_ensemble(
        chosen, candidate, states or (lambda most: kept), segments, metric=metric, mode="min", seed=0
    )


def test_the_summary_says_who_how_much_and_how_good(tmp_path: Path) -> None:
    found = judged()
    assert found is not None
    summary = found.summary("ensemble")
    assert set(summary) == {"value", "members", "weights", "metrics", "path"}
    assert summary["value"] == summary["metrics"]["validation_loss"]
    assert {"test_loss", "test_accuracy"} <= set(summary["metrics"])
    assert len(summary["members"]) == len(summary["weights"]) <= 3
    assert set(summary["members"][0]) == {"member", "segment", "origin"}
    _, segments = trained()
    found.save(tmp_path / "ensemble", segments, name="blobs", directory=str(tmp_path), best={})
    assert load(tmp_path, ensemble=True)(inputs(2, 2)).shape == (2, 3)


def test_nothing_spoils_a_run(caplog: pytest.LogCaptureFixture) -> None:
    kept, segments = trained()
    same = {"metric": "validation_loss", "mode": "min", "seed": 0}
    assert judged_ensemble(None, TASK, lambda most: kept, segments, **same) is None
    assert judged_ensemble(Ensemble(), object(), lambda most: kept, segments, **same) is None
    assert not caplog.records

    def too_large(most: float) -> None:
        raise ValueError("the run's states take 5.0 GiB")

    assert judged(states=too_large) is None
    assert "the run's states take 5.0 GiB" in caplog.text

    def broken(outputs, targets):
        raise KeyError("a metric of the user's")

    assert judged(candidate=dataclasses.replace(TASK, metrics={"odd": broken})) is None
    assert "KeyError" in caplog.text


def test_a_metric_that_only_members_have_leaves_the_value_open() -> None:
    found = judged(metric="train_loss")
    assert found is not None and found.summary(None)["value"] != found.summary(None)["value"]
