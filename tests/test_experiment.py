"""What an experiment refuses, in one sentence each."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from ray import tune

from raytune_rl import BadInput, Experiment, Pretrained, StopRule, rewards, roles


def train(config: dict[str, Any]) -> None:
    tune.report({"loss": config["lr"]})


def make(**changes: Any) -> Experiment:
    fields: dict[str, Any] = {
        "candidate": train,
        "hyperparameters": {"lr": roles.learning_rate(tune.loguniform(1e-4, 1e-1))},
        "metric": "loss",
        "mode": "min",
    }
    return Experiment(**{**fields, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"population": 0}, ["population", "0", "at least 1"]),
        ({"segments": -1}, ["segments", "-1"]),
        ({"segment_length": 2.5}, ["segment_length", "2.5"]),
        ({"mode": "minimum"}, ["mode", "'minimum'", "'min'"]),
        ({"metric": ""}, ["metric"]),
        ({"schedule": "linear"}, ["schedule", "'cosine'"]),
        ({"members_per_trial": 0}, ["members_per_trial"]),
        ({"segment_timeout": 0.0}, ["segment_timeout"]),
        ({"checkpoint_every": float("nan")}, ["checkpoint_every"]),
        ({"seed": -3}, ["seed", "-3"]),
        ({"resources": {"CPU": -1}}, ["resources", "CPU", "-1"]),
        ({"resources": {"CPU": 0}}, ["resources"]),
        ({"hyperparameters": {}}, ["hyperparameters"]),
        ({"hyperparameters": {"lr": tune.loguniform(1, 0.1)}}, ["lr", "1", "0.1"]),
        ({"hyperparameters": {"lr": roles.learning_rate(tune.loguniform(1e-4, 1e-4))}}, ["lr"]),
        ({"constants": {"lr": 0.1}}, ["constants", "lr"]),
        ({"candidate": 3}, ["candidate", "3"]),
        ({"candidate": dict}, ["candidate", "dict", "Trainable"]),
        ({"agent": "ppo"}, ["agent", "'ppo'"]),
        ({"compare": "grid"}, ["compare", "'grid'"]),
        ({"compare": "deep-ensemble"}, ["compare", "TorchTask", "compare='random'"]),
        ({"floor": 3}, ["floor is 3", "a Floor"]),
        ({"reward": "team"}, ["reward is 'team'", "rewards.improvement()"]),
        ({"reward": rewards.mixed}, ["reward is <function mixed", "rewards.improvement()"]),
    ],
)
def test_bad_input_is_one_sentence(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(BadInput) as caught:
        make(**changes)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"candidate": train}, ["refit is True", "a TorchTask"]),
        ({"refit": 3}, ["refit is 3", "True, False"]),
        ({"metric": "train_loss"}, ["metric is 'train_loss'", "validation_loss"]),
        ({"objective": "ensemble"}, ["objective is 'ensemble'", "'single'"]),
        ({"average": False}, ["average is False", "True"]),
        ({"segments": 1}, ["segments is 1", "at least 2"]),
        ({"population": 1}, ["population is 1", "at least 2"]),
        ({"compare": "deep-ensemble"}, ["compare is 'deep-ensemble'", "'random'"]),
        ({"stop": StopRule(seconds=60)}, ["stop.seconds is 60", "None"]),
    ],
)
def test_a_refit_needs_what_it_works_with(changes: dict[str, Any], words: list[str]) -> None:
    from tests.population.models import TASK

    fields = {"candidate": TASK, "metric": "validation_loss", "refit": True} | changes
    with pytest.raises(BadInput) as caught:
        make(**fields)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_refit_takes_its_segments_from_the_agents() -> None:
    from tests.population.models import TASK

    fields = {"candidate": TASK, "metric": "validation_loss", "segments": 20}
    assert (make(**fields).steered_segments, make(**fields).refit_segments) == (20, 0)
    assert (make(**fields, refit=True).steered_segments, make(**fields, refit=True).refit_segments) == (12, 8)
    assert [make(**fields | {"segments": n}, refit=True).refit_segments for n in (2, 3, 4, 5)] == [1, 1, 2, 2]


def test_a_stop_rule_is_checked() -> None:
    with pytest.raises(BadInput, match="seconds"):
        StopRule(seconds=0)
    with pytest.raises(BadInput, match=r"stop\.target is nan; it must be a number"):
        StopRule(target=float("nan"))


def test_kinds_of_candidate() -> None:
    from ray.tune.examples.pbt_example import PBTBenchmarkExample

    assert make().kind == "function"
    assert make(candidate=PBTBenchmarkExample).kind == "trainable"


def test_the_shipped_controller_steers_by_default() -> None:
    agent = make().agent
    assert isinstance(agent, Pretrained) and agent.directory is None and not agent.agent.learn


def test_importing_the_package_is_light() -> None:
    code = (
        "import sys, raytune_rl, raytune_rl.records, raytune_rl.hyperparameters, raytune_rl.mdp.observation,"
        " raytune_rl.controller, raytune_rl.experiment;"
        " print([m for m in ('ray', 'torch', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
