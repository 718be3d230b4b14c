"""Whole runs on a real Ray: what they leave behind, what they survive, and that they can be repeated."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from ray import tune
from torch import nn

from raytune_rl import (
    PBT,
    Agent,
    BadInput,
    Cosine,
    Experiment,
    FailurePolicy,
    Fixed,
    Random,
    StopRule,
    TorchTask,
    roles,
)
from raytune_rl.controller import Situation
from raytune_rl.runs.runner import RunFailed, run
from tests.paper_experiment import PaperTask, make
from tests.population.models import blobs, mlp
from tests.tune.trainables import counting

pytestmark = pytest.mark.usefixtures("ray_cluster")


def tables(directory: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    return pd.read_parquet(directory / "segments.parquet"), pd.read_parquet(directory / "decisions.parquet")


def check_whole(directory: Path, members: int, segments: int) -> None:
    """Every (member, segment) once and none missing."""
    for table in tables(directory):
        keys = list(zip(table["member"], table["segment"], strict=True))
        assert len(set(keys)) == len(keys)
    expected = {(m, s) for m in range(members) for s in range(segments)}
    segments_table = tables(directory)[0]
    assert set(zip(segments_table["member"], segments_table["segment"], strict=True)) == expected


def test_the_run_directory_is_as_promised(tmp_path: Path) -> None:
    out = tmp_path / "run"
    outcome = run(make(agent=PBT(), compare="random"), out=out)
    check_whole(out, 4, 8)
    segments, decisions = tables(out)
    promised = {"member", "segment", "steps", "trial_id", "node", "seconds", "copied_from", "copied_segment"}
    assert promised | {"hp/lr", "metric/loss"} <= set(segments.columns)
    assert {"policy_version", "reward", "logp", "value", "source", "obs/rank", "act/lr"} <= set(decisions.columns)
    assert segments["hp/lr"].between(1e-5, 1.0).all()
    summary = json.loads((out / "summary.json").read_text())
    assert summary == json.loads(json.dumps(outcome.summary)) | {"schema_version": 1}
    best = summary["best"]
    assert best["value"] == pytest.approx(segments["metric/loss"].min())
    assert float((out / "best" / "loss.txt").read_text()) == pytest.approx(best["value"])
    assert best["metrics"]["test_loss"] == pytest.approx(best["value"])
    assert set(summary["timing"]) >= {"wall_s", "train_s", "ideal_s", "overhead_ratio", "decision_ms_p50"}
    assert summary["counts"] == {"members": 4, "segments": 32, "failures": 0, "restarts": 0} | {
        "copies": int((segments["copied_from"].notna() & (segments["copied_from"] != segments["member"])).sum()),
        "rollbacks": int((decisions["source"] == "floor").sum()),
    }
    assert summary["counts"]["copies"] > 0
    assert summary["comparison"]["segments"] == 32
    experiment = json.loads((out / "experiment.json").read_text())
    assert experiment["seed"] == 0 and experiment["versions"]["ray"] and experiment["schema_version"] == 1
    # A finished run is left as it is.
    before = (out / "summary.json").stat().st_mtime_ns
    assert run(make(agent=PBT(), compare="random"), out=out, resume=True).summary["best"] == best
    assert (out / "summary.json").stat().st_mtime_ns == before
    with pytest.raises(BadInput, match="already holds a run"):
        run(make(), out=out)


@pytest.mark.parametrize("agent", [Random(), Fixed(), Cosine(), Agent(batch=8), Agent(algorithm="DQN", batch=8)])
def test_every_kind_of_agent_runs(tmp_path: Path, agent: Any) -> None:
    outcome = run(make(agent=agent, segments=6), out=tmp_path / "run")
    check_whole(tmp_path / "run", 4, 6)
    if isinstance(agent, Agent):
        assert outcome.summary["agent"]["transitions"] == 20
        assert (tmp_path / "run" / "agent").is_dir()


def test_synchronous_runs_repeat_bit_for_bit(tmp_path: Path) -> None:
    frames = []
    for name in ("one", "two"):
        run(make(synchronous=True, agent=Agent(batch=8)), out=tmp_path / name)
        segments, decisions = tables(tmp_path / name)
        timeless = segments.drop(columns=["seconds", "trial_id", "node"])
        order = ["member", "segment"]
        frames.append([f.sort_values(order, ignore_index=True) for f in (timeless, decisions)])
    for first, second in zip(*frames, strict=True):
        pd.testing.assert_frame_equal(first, second, check_exact=True)
    assert frames[0][1]["policy_version"].max() > 0


@pytest.mark.parametrize("fault", ["raise", "nan", "die", "hang", "deadly"])
def test_a_member_that_fails_does_not_stop_the_others(tmp_path: Path, fault: str) -> None:
    task = PaperTask(fault=fault, scratch=str(tmp_path))
    experiment = make(
        candidate=task,
        agent=Fixed(),
        segment_timeout=1.5,
        checkpoint_every=0.01,
        failures=FailurePolicy(max_restarts=1),
    )
    outcome = run(experiment, out=tmp_path / "run")
    segments, _ = tables(tmp_path / "run")
    others = segments[segments["member"] != 1]
    assert len(others) == 3 * 8
    assert (others["status"] == "ok").all()
    counts, for_good = outcome.summary["counts"], fault in ("raise", "deadly")
    assert (counts["failures"], counts["restarts"]) == ((2, 1) if for_good else (1, 1))
    if not for_good:
        check_whole(tmp_path / "run", 4, 8)
    if fault == "raise":
        assert "does not like its fourth segment" in (tmp_path / "run" / "run.log").read_text()


class Upward(Fixed):
    """Moves every hyperparameter up by the largest step before the fifth segment, come what may."""

    def choose(self, situation: Situation, rng: np.random.Generator) -> tuple[int, ...]:
        if situation.segment != 4:
            return super().choose(situation, rng)
        return tuple(head.size - 1 if head.name.startswith("hp/") else head.neutral for head in self._action.heads)


def test_members_that_a_change_has_ruined_go_back_to_their_best(tmp_path: Path) -> None:
    experiment = make(candidate=PaperTask(fault="collapse"), agent=Upward(), synchronous=True)
    searched = replace(experiment, hyperparameters={"lr": roles.learning_rate(tune.loguniform(1e-3, 1.0))})
    outcome = run(searched, out=tmp_path / "run")
    check_whole(tmp_path / "run", 4, 8)
    segments, decisions = tables(tmp_path / "run")
    table = segments.set_index(["member", "segment"])
    acted = decisions[decisions["source"] == "floor"]
    assert outcome.summary["counts"]["rollbacks"] == len(acted) > 0
    assert set(acted["segment"]) == {5}
    assert acted[["act/lr", "obs/rank"]].isna().all(axis=None)  # nobody was asked
    for member in acted["member"]:
        before, ruined, back = (table.loc[(member, segment)] for segment in (3, 4, 5))
        assert ruined["metric/loss"] > 2 * before["metric/loss"] > 2 * back["metric/loss"]
        assert (back["copied_from"], back["copied_segment"]) == (member, 3)
        assert back["hp/lr"] == before["hp/lr"] < ruined["hp/lr"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert f"The floor acted {len(acted)} time" in page
    without = run(replace(searched, floor=None), out=tmp_path / "without")
    assert without.summary["counts"]["rollbacks"] == 0
    ruined_for_good = tables(tmp_path / "without")[0].query("segment == 7")["metric/loss"]
    assert segments.query("segment == 7")["metric/loss"].mean() < ruined_for_good.mean()


def test_a_target_ends_the_run(tmp_path: Path) -> None:
    run(make(agent=Fixed(), segments=50, stop=StopRule(target=1.5)), out=tmp_path / "run")
    segments, _ = tables(tmp_path / "run")
    assert segments["metric/loss"].min() <= 1.5
    assert segments["segment"].max() < 40


def test_seconds_end_the_run(tmp_path: Path) -> None:
    task = PaperTask(seconds=0.05)
    run(make(candidate=task, agent=Fixed(), segments=5000, stop=StopRule(seconds=1.5)), out=tmp_path / "run")
    assert 10 < len(tables(tmp_path / "run")[0]) < 400


def test_a_metric_that_is_not_reported_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"'accuracy'.*loss"):
        run(make(metric="accuracy", mode="max"), out=tmp_path / "run")


def of_task(task: TorchTask) -> Experiment:
    lr = {"lr": roles.learning_rate(tune.loguniform(1e-3, 1e-1))}
    return make(candidate=task, hyperparameters=lr, metric="validation_loss", agent=Fixed())


@pytest.mark.parametrize("packed", [True, False])
def test_a_run_that_came_to_nothing_says_why_with_the_users_frames(tmp_path: Path, packed: bool) -> None:
    def picky(outputs: torch.Tensor, targets: torch.Tensor) -> float:
        raise ValueError("my metric is picky")

    task = TorchTask(mlp, blobs, loss=nn.CrossEntropyLoss(), metrics={"picky": picky}, packed=packed)
    with pytest.raises(
        RunFailed, match=r"finite validation_loss \(ValueError: .*'picky'.*my metric is picky.* given up"
    ):
        run(of_task(task), out=tmp_path / "run")
    log = (tmp_path / "run" / "run.log").read_text()
    assert 'raise ValueError("my metric is picky")' in log and "starts again" not in log


def test_data_network_and_loss_are_tried_before_any_trial(tmp_path: Path) -> None:
    wrong = TorchTask(mlp, blobs, loss=nn.MSELoss())  # of classes: it takes no such targets
    with pytest.raises(BadInput, match=r"^candidate: MSELoss needs outputs in the shape of the targets"):
        run(of_task(wrong), out=tmp_path / "run")

    def missing() -> Any:
        return (tmp_path / "rows.csv").read_text()

    with pytest.raises(BadInput) as caught:
        run(of_task(TorchTask(mlp, missing, loss=nn.CrossEntropyLoss())), out=tmp_path / "run")
    told = str(caught.value)
    assert 'return (tmp_path / "rows.csv").read_text()' in told and "torch_member.py" not in told
    assert told.endswith("rows.csv'") and "The candidate cannot be made: [Errno 2]" in told
    assert not (tmp_path / "run").exists()


def test_too_many_gpus_and_unpicklable_candidates_are_found_before_ray(tmp_path: Path) -> None:
    import threading

    with pytest.raises(BadInput, match="64 GPU"):
        run(make(resources={"CPU": 1, "GPU": 64}), out=tmp_path / "run")
    task = PaperTask(scratch=threading.Lock())  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="pickled"):
        run(make(candidate=task), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_resume_names_what_differs(tmp_path: Path) -> None:
    run(make(agent=Fixed(), segments=2), out=tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    with pytest.raises(BadInput, match=r"segments is 2 there and 3 here"):
        run(make(agent=Fixed(), segments=3), out=tmp_path / "run", resume=True)
    with pytest.raises(BadInput, match=r"that run: candidate\.seconds is 0\.0 there and 0\.5 here\. \(A resumed run"):
        run(make(agent=Fixed(), segments=2, candidate=PaperTask(seconds=0.5)), out=tmp_path / "run", resume=True)
    with pytest.raises(BadInput, match="not a run directory"):
        run(make(), out=tmp_path / "nothing", resume=True)


def test_a_searcher_proposes_the_starting_points(tmp_path: Path) -> None:
    from ray.tune.search.optuna import OptunaSearch

    run(make(agent=Fixed(), segments=2, searcher=OptunaSearch(seed=3)), out=tmp_path / "run")
    segments, _ = tables(tmp_path / "run")
    assert segments.groupby("member")["hp/lr"].nunique().eq(1).all()
    assert segments["hp/lr"].nunique() == 4
    assert np.isfinite(segments["hp/lr"]).all()


def test_an_unchanged_trainable_runs(tmp_path: Path) -> None:
    from ray.tune.examples.pbt_example import PBTBenchmarkExample

    from raytune_rl import Experiment, roles
    from tests.test_experiment import tune

    experiment = Experiment(
        candidate=PBTBenchmarkExample,
        hyperparameters={"lr": roles.learning_rate(tune.loguniform(1e-4, 2e-2))},
        metric="mean_accuracy",
        mode="max",
        population=4,
        segments=5,
        agent=PBT(),
    )
    run(experiment, out=tmp_path / "run")
    check_whole(tmp_path / "run", 4, 5)


def test_an_unchanged_function_runs_and_is_taken_up_again_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = make(
        candidate=counting,
        hyperparameters={"lr": roles.learning_rate(tune.loguniform(1e-2, 1.0))},
        metric="total",
        mode="max",
        agent=PBT(),
        segments=4,
    )
    out = tmp_path / "a folder" / "run"
    monkeypatch.chdir(tmp_path)
    first = run(experiment, out=Path("a folder", "run"))  # as with the default: a path from where one is
    check_whole(out, 4, 4)
    best = json.loads((out / "best" / "state.json").read_text())
    assert best[0] == pytest.approx(first.summary["best"]["value"])
    (out / "summary.json").unlink()  # as if it had been killed at its very end
    monkeypatch.chdir(out)
    again = run(experiment, out=out, resume=True)
    assert again.summary["best"] == first.summary["best"] | {"path": again.summary["best"]["path"]}
    assert again.summary["timing"]["wall_s"] >= first.summary["timing"]["wall_s"] > 0  # over all sessions
    check_whole(out, 4, 4)
