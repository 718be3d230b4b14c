"""Real runs on a GPU: several trials share it, members train there, and what they leave is used without one."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from ray import tune
from torch import nn

import raytune_rl
from raytune_rl import Experiment, TorchTask, roles
from raytune_rl.runs.runner import run
from raytune_rl.tasks.digits import digits
from tests.devices import needs_gpu

pytestmark = needs_gpu
ELSEWHERE = 100.0


def network(dropout: float) -> nn.Module:
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Dropout(dropout), nn.Linear(32, 10))


def telling(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross entropy, which betrays where it was computed."""
    return F.cross_entropy(outputs, targets) + (0.0 if outputs.is_cuda else ELSEWHERE)


EXPERIMENT = Experiment(
    candidate=TorchTask(network, digits, loss=telling),
    hyperparameters={
        "lr": roles.learning_rate(tune.loguniform(1e-4, 0.3)),
        "dropout": roles.dropout(tune.uniform(0.0, 0.5)),
    },
    metric="validation_loss",
    mode="min",
    population=8,
    segments=5,
    segment_length=20,
    resources={"CPU": 0.5, "GPU": 0.25},
)


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("members_per_trial", [2, 8])
def test_trials_share_a_gpu(members_per_trial: int, tmp_path: Path) -> None:
    run(replace(EXPERIMENT, members_per_trial=members_per_trial), out=tmp_path / "run")
    segments = pd.read_parquet(tmp_path / "run" / "segments.parquet")
    assert len(segments) == 40 and segments["trial_id"].nunique() == 8 // members_per_trial
    assert (segments["metric/validation_loss"] < ELSEWHERE).all()
    assert json.loads((tmp_path / "run" / "experiment.json").read_text())["hardware"]["gpus"]
    model = raytune_rl.load(tmp_path / "run")
    assert next(model.parameters()).device.type == "cpu"
    assert model(torch.zeros(3, 64)).shape == (3, 10)


@pytest.mark.cluster
def test_meta_training_on_a_gpu(tmp_path: Path) -> None:
    changes = ["runners=1", "num_gpus_per_env_runner=0.5", "pack=32", "worlds=1", "minibatch=64"]
    changes += ["validation_worlds=1", "validation_populations=1"]
    command = [sys.executable, "-m", "raytune_rl.meta_train", "--out", str(tmp_path / "meta"), "--minutes", "0.05"]
    done = subprocess.run(
        [*command, *(part for change in changes for part in ("--set", change))],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "meta" / "best").exists()
