"""What ``Agent`` accepts, and what it says about the rest."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raytune_rl.rllib import Agent, checkpoints


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("algorithm", "A2C"),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("gamma", 0.0),
        ("gamma", 1.5),
        ("batch", 0),
        ("batch", 2.5),
        ("hidden", ()),
        ("hidden", (64, 0)),
        ("training", {1: 2}),
        ("num_gpus", -1),
        ("population", 0),
        ("population", "x"),
    ],
)
def test_a_bad_field_is_named_in_one_sentence(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field) as error:
        Agent(**{field: value})
    assert "\n" not in str(error.value)


def test_settings_survive_json() -> None:
    agent = Agent(algorithm="SAC", hidden=(32, 16), training={"tau": 0.1}, batch=8)
    assert Agent(**json.loads(json.dumps(agent.to_dict()))) == agent


def test_settings_need_neither_ray_nor_torch() -> None:
    code = "import sys, raytune_rl.rllib as r; r.Agent(); print([m for m in ('ray', 'torch') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_from_run_without_a_checkpoint_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no complete agent checkpoint"):
        Agent.from_run(tmp_path)


def test_from_run_takes_the_settings_along(tmp_path: Path) -> None:
    saved = Agent(algorithm="DQN", hidden=(8,), learning_rate=0.01)
    checkpoints.write(tmp_path / checkpoints.NAME, lambda path: None, {"agent": saved.to_dict()})
    agent = Agent.from_run(tmp_path, learn=False)
    assert (agent.algorithm, agent.hidden, agent.learning_rate, agent.learn) == ("DQN", (8,), 0.01, False)
    assert agent.checkpoint == str((tmp_path / checkpoints.NAME).resolve())
