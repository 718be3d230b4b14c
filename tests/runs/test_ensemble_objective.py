"""``objective="ensemble"`` in real trials: predictions reach the controller, and survive a kill -9, but no table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from ray import tune
from torch import nn

from raytune_rl import Agent, BadInput, Experiment, Random, TorchTask, rewards, roles
from raytune_rl.cli.experiment_file import load_experiment
from raytune_rl.ensemble.settings import Ensemble
from raytune_rl.meta.from_runs import read_run
from raytune_rl.rllib import checkpoints
from raytune_rl.rllib.saved import read_weights
from raytune_rl.rllib.spaces import Sizes
from raytune_rl.rllib.team import separated, starting_weights
from raytune_rl.runs import comparison
from raytune_rl.runs.composition import make_candidate, make_controller
from raytune_rl.runs.resume import resolved_fields
from raytune_rl.runs.runner import run
from raytune_rl.tasks.wine import wine, wine_network
from tests.test_run import DEADLINE, start, wait_for_rows

TEAM = Path(__file__).parents[1] / "team_experiment.py"


def experiment(**changes: Any) -> Experiment:
    settings: dict[str, Any] = {
        "candidate": TorchTask(wine_network, wine, loss=nn.CrossEntropyLoss(), batch_size=16),
        "hyperparameters": {"lr": roles.learning_rate(tune.loguniform(1e-4, 1e-1))},
        "metric": "validation_loss",
        "mode": "min",
        "population": 4,
        "segments": 4,
        "segment_length": 5,
        "copy_every": 2,
        "objective": "ensemble",
        "agent": Random(),
        "synchronous": True,
        "floor": None,  # every decision is an agent's, and tells what was seen
        "callbacks": None,
    }
    return Experiment(**{**settings, **changes})


def report(config: dict[str, Any]) -> None:
    """A function that Tune trains."""


@pytest.mark.cluster
def test_members_report_what_they_predict(tmp_path: Path) -> None:
    summary = run(experiment(), out=str(tmp_path / "run"))
    assert summary is not None
    rows = pd.read_parquet(tmp_path / "run" / "segments.parquet").sort_values(["segment", "member"])
    assert len(rows) == 16 and not [name for name in rows if "predictions" in name]
    last = rows[rows.segment == 3]
    assert last["metric/ensemble_loss"].nunique() == 1, "members that report together see the same ensemble"
    assert (last["metric/ensemble_loss"] <= last["metric/ensemble_uniform_loss"] + 1e-9).all()
    assert (last["metric/ensemble_ambiguity"] > 0).all() and (last["metric/ensemble_disagreement"] > 0).all()
    decisions = pd.read_parquet(tmp_path / "run" / "decisions.parquet").sort_values(["segment", "member"])
    seen = decisions[decisions.segment == 3]
    assert (seen["obs/ensemble"] == 1.0).all() and seen["obs/greedy_weight"].sum() == pytest.approx(1.0)
    told = rows[rows.segment == 2]["metric/ensemble_contribution"].to_numpy()
    np.testing.assert_allclose(seen["obs/contribution"], np.clip(4 * told, -4, 4), rtol=1e-5)
    team = read_run(tmp_path / "run").team  # experience for the next meta-training
    assert team is not None and np.isfinite(team.contribution).all()
    np.testing.assert_allclose(team.score[3], -np.log(last["metric/ensemble_loss"].iloc[0] + 0.02))


def test_the_objective_chooses_the_reward() -> None:
    assert repr(experiment().pay) == "mixed(0.5, 4, 0.25)"
    assert repr(experiment(objective="single").pay) == "improvement()"
    assert repr(experiment(reward=rewards.team()).pay) == "team()"
    assert resolved_fields(experiment())["reward"] == experiment().pay


def focal(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    each = nn.functional.cross_entropy(outputs, targets, reduction="none")
    return ((1 - (-each).exp()) ** 2 * each).mean()


def test_what_cannot_be_judged_together_is_refused() -> None:
    with pytest.raises(BadInput, match="does not report what it predicts"):
        experiment(candidate=report)
    with pytest.raises(BadInput, match="needs objective='ensemble'"):
        experiment(objective="single", reward=rewards.team())
    with pytest.raises(BadInput, match="objective is 'all'"):
        experiment(objective="all")
    with pytest.raises(BadInput, match=r"SmoothL1Loss and HuberLoss, not focal. .* Ensemble\(kind=\.\.\.\)"):
        make_controller(experiment(candidate=TorchTask(wine_network, wine, loss=focal)), Random())


@pytest.mark.cluster
def test_a_loss_of_ones_own_is_steered_for_by_the_kind_that_is_declared(tmp_path: Path) -> None:
    own = experiment(candidate=TorchTask(wine_network, wine, loss=focal), ensemble=Ensemble(kind="classification"))
    summary = run(own, out=str(tmp_path / "run"))
    assert summary is not None
    rows = pd.read_parquet(tmp_path / "run" / "segments.parquet")
    assert rows["metric/ensemble_loss"].notna().all() and (rows["metric/ensemble_ambiguity"] > 0).any()
    config = json.loads((tmp_path / "run" / "ensemble" / "config.json").read_text())
    assert config["link"] == "softmax"


def test_outputs_that_make_no_ensemble_are_refused_before_anything_starts() -> None:
    own = TorchTask(mean_and_spread, wine, loss=focal)
    with pytest.raises(BadInput, match=r"outputs have shape \(2, 2\) for targets of shape \(2,\)"):
        make_controller(experiment(candidate=own, ensemble=Ensemble(kind="regression")), Random())


def test_a_network_that_fails_is_left_to_the_trials() -> None:
    broken = TorchTask(lambda: nn.Linear(7, 3), wine, loss=nn.CrossEntropyLoss())  # wine has 13 features
    assert make_controller(experiment(candidate=broken), Random()).evaluation_targets is not None


def mean_and_spread() -> nn.Module:
    return nn.Linear(13, 2)


def test_a_declared_kind_is_how_members_are_judged_and_the_model_is_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    matching = experiment(ensemble=Ensemble(kind="matching"))
    evaluation_targets = make_controller(matching, Random()).evaluation_targets
    assert evaluation_targets is not None and evaluation_targets.kind == "matching"
    candidate = make_candidate(matching)
    assert isinstance(candidate, TorchTask) and candidate.predictions
    assert candidate.evaluation_targets().kind == "matching"
    monkeypatch.setattr(comparison, "delivery_of", lambda *given, **settings: settings)
    trained: Any = SimpleNamespace(controller=SimpleNamespace(policy=Random()), states=None)
    for one, kind in ((matching, "matching"), (experiment(ensemble=None), None)):
        told: Any = comparison.delivered_by(one, trained)
        assert told == {"metric": "validation_loss", "mode": "min", "kind": kind, "plain": False}


def test_without_the_objective_nothing_is_reported() -> None:
    single = experiment(objective="single")
    controller = make_controller(single, Random())
    assert controller.evaluation_targets is None and not single.candidate.predictions  # type: ignore[union-attr]


@pytest.mark.cluster
@pytest.mark.slow
def test_a_team_learns_in_real_trials_and_goes_on_after_kill_minus_nine(tmp_path: Path) -> None:
    out, log = tmp_path / "run", tmp_path / "log.txt"
    process = start(TEAM, "--out", str(out), log=log)
    wait_for_rows(out, 60, process)
    process.kill()
    process.wait()
    assert start(TEAM, "--resume", str(out), log=log).wait(DEADLINE) == 0, log.read_text()
    summary = json.loads((out / "summary.json").read_text())
    assert summary["counts"]["segments"] == 160 and summary["agent"]["transitions"] >= 120
    assert "learning agent failed" not in (out / "run.log").read_text()
    rows, decisions = (pd.read_parquet(out / f"{name}.parquet") for name in ("segments", "decisions"))
    for table in (rows, decisions):
        assert len(table) == 160 and not table[["member", "segment"]].duplicated().any()
    assert decisions["policy_version"].max() >= 3
    found = checkpoints.newest(out / "agent")
    assert found is not None
    learned = separated(read_weights(found))
    agent = Agent(**found.record["agent"])
    names = {name: tuple(found.record[name]) for name in ("features", "heads", "nvec")}
    begun = separated(starting_weights(agent, Sizes(**names), seed=0))
    assert learned.keys() == {"exploiter", "explorer"}
    assert all(not np.array_equal(learned[m][name], begun[m][name]) for m in begun for name in begun[m])
    # After the kill no member has forgotten what the others predict: the ensemble goes on where it was.
    greedy = rows.groupby("segment")["metric/ensemble_loss"].median()
    assert greedy.iloc[-10:].max() < greedy.iloc[:5].min()


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    "agent",
    [
        Agent(agents="members", modules="own", batch=8),
        Agent(agents="members", modules="shared", batch=8),
        Agent(agents="hyperparameters", batch=8),
    ],
    ids=["a module each", "one module", "an agent per hyperparameter"],
)
def test_other_teams_learn_in_real_trials_too(agent: Agent, tmp_path: Path) -> None:
    team = replace(load_experiment(TEAM), agent=agent, segments=8)
    summary = run(team, out=tmp_path / "run").summary
    assert summary["counts"]["segments"] == 32 and summary["agent"]["transitions"] >= 16
    log = (tmp_path / "run" / "run.log").read_text()
    assert "learning agent failed" not in log and "Traceback" not in log
    decisions = pd.read_parquet(tmp_path / "run" / "decisions.parquet")
    assert len(decisions) == 32 and decisions["policy_version"].max() >= 1
