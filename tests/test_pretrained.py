"""The shipped controller: in the package, small, readable without pickle, and at work in real trials."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from ray import tune

import raytune_rl
from raytune_rl import BadInput, Experiment, Pretrained, TorchTask, roles
from raytune_rl.runner import run
from raytune_rl.tasks.wine import wine, wine_network

HOME = Path(raytune_rl.__file__).parent / "pretrained"


def test_it_is_in_the_package_and_small() -> None:
    assert (HOME / "controller.safetensors").stat().st_size < 2 * 2**20
    record = json.loads((HOME / "controller.json").read_text())
    assert record["schema_version"] == 1 and record["recipe"] and record["meta_validation"]
    assert repr(Pretrained()) == "Pretrained()"


@pytest.mark.parametrize("content", [None, "{", '{"schema_version": 99}'])
def test_what_is_no_controller_is_refused(content: str | None, tmp_path: Path) -> None:
    (tmp_path / "controller.safetensors").write_bytes((HOME / "controller.safetensors").read_bytes())
    if content is not None:
        (tmp_path / "controller.json").write_text(content)
    with pytest.raises(BadInput, match="Pretrained: "):
        Pretrained(tmp_path)


@pytest.mark.cluster
def test_it_steers_real_trials(tmp_path: Path) -> None:
    from torch import nn

    experiment = Experiment(
        candidate=TorchTask(wine_network, wine, loss=nn.CrossEntropyLoss(), batch_size=16),
        hyperparameters={
            "lr": roles.learning_rate(tune.loguniform(1e-5, 1.0)),
            "dropout": roles.dropout(tune.uniform(0.0, 0.6)),
        },
        metric="validation_loss",
        mode="min",
        population=4,
        segments=5,
        segment_length=5,
        copy_every=2,
        agent=Pretrained(),
        synchronous=True,
        callbacks=None,
    )
    summary = run(experiment, out=str(tmp_path / "run"))
    assert summary is not None
    rows = pd.read_parquet(tmp_path / "run" / "segments.parquet")
    assert len(rows) == 20
    decisions = pd.read_parquet(tmp_path / "run" / "decisions.parquet")
    assert (decisions["obs/optimiser"].iloc[-1] == 1.0) and decisions["logp"].notna().all()
    # Starting values are its own, and a cosine lies over the rates.
    rates = rows.pivot(index="segment", columns="member", values="hp/lr")
    assert rates.iloc[0].nunique() >= 2
    assert (rates.iloc[-1] < rates.iloc[0]).mean() >= 0.5
