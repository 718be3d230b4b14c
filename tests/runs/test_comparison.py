"""Runs of torch members end with an ensemble, beside a deep ensemble of the same budget, and go on after a kill."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from ray import tune

from raytune_rl import load, roles
from raytune_rl.runs.comparison import hand_default
from raytune_rl.runs.runner import run
from tests.blobs_experiment import make
from tests.ensemble.members import inputs


def test_the_hand_default_is_one_per_role_inside_the_bounds() -> None:
    assert hand_default(make()) == pytest.approx({"lr": 1e-3, "dropout": 0.1})
    others = {
        "lr": roles.learning_rate(tune.loguniform(1e-2, 1.0)),
        "batch_size": roles.batch_size(tune.choice([16, 32])),
        "shift": roles.augmentation(tune.uniform(0.0, 0.5)),
        "width": tune.randint(2, 11),
    }
    assert hand_default(make(hyperparameters=others)) == {
        "lr": pytest.approx(1e-2),
        "batch_size": 32,
        "shift": 0.0,
        "width": 6,
    }


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_run_ends_with_its_ensemble_beside_a_deep_ensemble(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(make(compare="deep-ensemble"), out=out)
    summary = json.loads((out / "summary.json").read_text())
    ensemble, other = summary["ensemble"], summary["comparison"]
    assert sum(ensemble["weights"]) == pytest.approx(1.0) and ensemble["path"] == "ensemble"
    assert ensemble["value"] == ensemble["metrics"]["validation_loss"]
    assert {"test_loss", "test_accuracy", "test_ece"} <= set(ensemble["metrics"])
    assert other["name"] == "deep ensemble" and other["of"] == "ensemble" and other["segments"] == 24
    assert other["ratio"] == pytest.approx(ensemble["value"] / other["value"])
    assert (out / "deep_ensemble" / "segments.parquet").is_dir()
    data = inputs(3, 2)
    expected = load(out, ensemble=True)(data)
    report = (out / "report.html").read_text()
    assert f"its ensemble of {len(ensemble['members'])}" in report and "deep ensemble" in report
    # Killed while it was being written: what is there is written again, and comes out the same.
    (out / "summary.json").unlink()
    shutil.rmtree(out / "ensemble")
    again = run(make(compare="deep-ensemble"), out=out, resume=True).summary
    assert again["ensemble"]["weights"] == ensemble["weights"]
    torch.testing.assert_close(load(out, ensemble=True)(data), expected)
    assert again["comparison"]["segments"] == 24
