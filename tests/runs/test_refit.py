"""Runs that end with a refit: its own tables beside the run's, a better model, and nothing trained twice."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from ray import tune
from torch import nn

from raytune_rl import BadInput, Cosine, Experiment, StopRule, load, roles
from raytune_rl.controller.policies import Replay
from raytune_rl.runs.runner import run
from tests import blobs_experiment
from tests.ensemble.members import TASK, inputs
from tests.population.models import blobs


def make(**changes: Any) -> Experiment:
    return blobs_experiment.make(**{"segments": 5, "agent": Cosine(), "refit": True, **changes})


def table(directory: Path) -> pd.DataFrame:
    return pd.read_parquet(directory / "segments.parquet")


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_cluster")
def test_a_run_ends_with_a_refit_and_is_taken_up_where_it_was(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(make(compare="random"), out=out)
    summary = json.loads((out / "summary.json").read_text())
    best, steered, refit = summary["best"], table(out), table(out / "refit")
    assert sorted(zip(steered["member"], steered["segment"], strict=True)) == [
        (m, s) for m in range(4) for s in range(3)
    ]
    assert sorted(zip(refit["member"], refit["segment"], strict=True)) == [(m, s) for m in range(4) for s in range(2)]
    assert refit["hp/dropout"].nunique() == 1 and refit.groupby("segment")["hp/lr"].nunique().eq(1).all()
    assert refit["hp/lr"].max() == pytest.approx(best["hyperparameters"]["lr"])
    told = best["refit"]
    assert (told["copies"], told["examples"], told["segments"]) == (4, 180, 8)
    assert told["train_s"] == pytest.approx(refit["seconds"].sum())
    assert best["value"] == best["metrics"]["validation_loss"] and np.isfinite(best["metrics"]["test_loss"])
    assert summary["comparison"]["segments"] == 20
    report = (out / "report.html").read_text()
    assert "then trained in 4 copies on 180 rows" in report and "same budget" in report
    assert "<dd>8 segments in " in report
    expected = load(out)(inputs(3, 2))
    # Killed when it was all but over: the refit's copies are found again, and nothing is trained a second time.
    (out / "summary.json").unlink()
    again = run(make(compare="random"), out=out, resume=True).summary
    assert again["best"]["value"] == best["value"]
    torch.testing.assert_close(load(out)(inputs(3, 2)), expected)
    pd.testing.assert_frame_equal(table(out / "refit"), refit)


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_cluster")
def test_a_run_that_has_reached_its_target_or_replays_is_not_refitted(tmp_path: Path) -> None:
    reached = run(make(stop=StopRule(target=5.0)), out=tmp_path / "reached").summary
    replay = run(make(agent=Replay([{"lr": 0.01, "dropout": 0.1}])), out=tmp_path / "replay").summary
    assert "refit" not in reached["best"] and "refit" not in replay["best"]
    assert not (tmp_path / "reached" / "refit").exists() and not (tmp_path / "replay" / "refit").exists()


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_cluster")
def test_values_that_a_member_could_not_take_do_not_keep_it_from_being_refitted(tmp_path: Path) -> None:
    """There are 120 rows to train on, and batches of that size are no option of the space."""
    space = {
        "lr": roles.learning_rate(tune.loguniform(1e-3, 1e-1)),
        "batch_size": roles.batch_size(tune.choice([150, 256])),
    }
    best = run(make(hyperparameters=space, population=2, segments=2), out=tmp_path / "run").summary["best"]
    assert best["hyperparameters"]["batch_size"] == 120 and best["refit"]["copies"] == 2
    assert set(table(tmp_path / "run" / "refit")["hp/batch_size"]) == {150}


def test_states_that_are_too_large_are_named_before_ray_starts(tmp_path: Path) -> None:
    def wide(dropout: float = 0.1) -> nn.Module:
        return nn.Sequential(nn.Linear(2, 4096), nn.ReLU(), nn.Linear(4096, 6000), nn.ReLU(), nn.Linear(6000, 3))

    with pytest.raises(BadInput, match=r"the states of 4 such networks take about 2.2 GiB; a refit reads them all"):
        run(make(candidate=dataclasses.replace(TASK, network=wide)), out=tmp_path / "run")


def test_data_that_cannot_be_put_together_are_named_before_ray_starts(tmp_path: Path) -> None:
    def soft() -> Any:
        train, validation, test = blobs()
        return train, (validation[0], np.eye(3)[validation[1]]), test

    with pytest.raises(BadInput, match=r"refit is True, and the candidate's data do not suit it: targets of the train"):
        run(make(candidate=dataclasses.replace(TASK, data=soft)), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
