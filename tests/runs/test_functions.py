"""Whole runs of functions that report: what they leave behind when all goes well, and when it does not."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from ray import tune

from raytune_rl import BadInput, Experiment, FailurePolicy, Fixed, StopRule, roles
from raytune_rl.runs.runner import run
from raytune_rl.tune.trials.state import FOLDER
from tests.paper_experiment import make
from tests.tune.trainables import counting

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.slow]


def unsaved(config: dict[str, Any]) -> None:
    """Counts up without checkpoints, for ever unless ``steps`` says otherwise."""
    time.sleep(config.get("start", 0.0))
    for step in range(int(config.get("steps", 10**9))):
        time.sleep(config.get("sleep", 0.0))
        tune.report({"total": config["lr"] * (step + 1)})


def faulty(config: dict[str, Any]) -> None:
    """``counting``, but for member 1, which goes wrong after its second report: once, or always without ``marker``."""
    place, marker = tune.get_checkpoint(), config.get("marker")
    done = 0
    if place:
        with place.as_directory() as directory:
            _, done = json.loads(Path(directory, "state.json").read_text())
    if tune.get_context().get_trial_name().endswith("_00001"):
        if done < 2:
            counting({**config, "steps": 2})
        if marker is None or not Path(marker).exists():
            if marker is not None:
                Path(marker).touch()
            if config["fault"] == "raise":
                raise RuntimeError("two are enough")
            if config["fault"] == "kill":
                os.kill(os.getpid(), 9)
            time.sleep(3600)
    counting(config)


def experiment(candidate: Any, **changes: Any) -> Experiment:
    fields: dict[str, Any] = {
        "candidate": candidate,
        "hyperparameters": {"lr": roles.learning_rate(tune.loguniform(1e-2, 1.0))},
        "metric": "total",
        "mode": "max",
        "agent": Fixed(),
        "population": 2,
        "segments": 6,
    }
    return make(**{**fields, **changes})


def rows(out: Path) -> dict[int, list[int]]:
    """The segments that each member has in the table."""
    table = pd.read_parquet(out / "segments.parquet").sort_values("segment")
    return {member: list(group["segment"]) for member, group in table.groupby("member")}


@pytest.mark.parametrize("candidate", [counting, unsaved])
def test_a_metric_that_is_not_reported_is_bad_input(tmp_path: Path, candidate: Any) -> None:
    with pytest.raises(BadInput, match=r"metric is 'nosuch', which the candidate does not report; it reports .*total"):
        run(experiment(candidate, metric="nosuch"), out=tmp_path / "run")
    assert "TUNE_DISABLE_STRICT_METRIC_CHECKING" not in os.environ


@pytest.mark.parametrize("steps", [math.inf, 6])
def test_without_checkpoints_every_segment_is_recorded(tmp_path: Path, steps: float) -> None:
    constants = {"sleep": 0.01, **({} if steps == math.inf else {"steps": steps})}
    outcome = run(experiment(unsaved, constants=constants), out=tmp_path / "run")
    assert rows(tmp_path / "run") == {0: list(range(6)), 1: list(range(6))}
    assert outcome.summary["best"]["segment"] == 5
    assert outcome.summary["timing"]["wall_s"] >= 0.06
    assert set(pd.read_parquet(tmp_path / "run" / "decisions.parquet")["source"]) == {"keep"}
    segments = pd.read_parquet(tmp_path / "run" / "segments.parquet")
    assert segments.groupby("member")["hp/lr"].nunique().eq(1).all()


def test_seconds_end_a_function_without_checkpoints(tmp_path: Path) -> None:
    """Also before it is known that there are none."""
    stop, constants = StopRule(seconds=2.0), {"sleep": 0.05}
    run(experiment(unsaved, constants=constants, stop=stop, segments=10**6, segment_length=10), out=tmp_path / "run")
    found = rows(tmp_path / "run")
    assert set(found) == {0, 1}
    assert all(segments == list(range(len(segments))) for segments in found.values())
    assert 2 <= max(map(len, found.values())) < 10


def test_a_function_that_hangs_starts_again(tmp_path: Path) -> None:
    constants = {"fault": "hang", "marker": str(tmp_path / "hung")}
    outcome = run(experiment(faulty, constants=constants, segment_timeout=3.0), out=tmp_path / "run")
    assert (tmp_path / "hung").exists()
    assert rows(tmp_path / "run") == {0: list(range(6)), 1: list(range(6))}
    assert (outcome.summary["counts"]["failures"], outcome.summary["counts"]["restarts"]) == (1, 1)
    assert "has not reported for 3 seconds" in (tmp_path / "run" / "run.log").read_text()


@pytest.mark.parametrize("fault", ["raise", "kill"])
def test_what_goes_wrong_is_counted(tmp_path: Path, fault: str) -> None:
    candidate = experiment(faulty, constants={"fault": fault}, failures=FailurePolicy(max_restarts=1))
    outcome = run(candidate, out=tmp_path / "run")
    assert rows(tmp_path / "run") == {0: list(range(6)), 1: [0, 1]}
    assert (outcome.summary["counts"]["failures"], outcome.summary["counts"]["restarts"]) == (2, 1)
    assert "member 1 failed" in (tmp_path / "run" / "run.log").read_text()


@pytest.mark.parametrize("broken", ["tuner.pkl", "experiment_state-*.json"])
def test_what_tune_has_left_broken_is_mended(tmp_path: Path, broken: str) -> None:
    out, candidate = tmp_path / "run", experiment(counting, segments=4)
    first = run(candidate, out=out)
    (out / "summary.json").unlink()  # as if it had been killed at its very end
    (place,) = (out / "tune").glob(broken)
    place.write_bytes(place.read_bytes()[:-20])
    again = run(candidate, out=out, resume=True)
    assert again.summary["best"] == first.summary["best"]
    assert rows(out) == {0: list(range(4)), 1: list(range(4))}
    assert f"{place.name} is broken" in (out / "run.log").read_text()


def test_what_tune_has_left_broken_without_a_copy_is_bad_input(tmp_path: Path) -> None:
    out, candidate = tmp_path / "run", experiment(counting, segments=2)
    run(candidate, out=out)
    (out / "summary.json").unlink()
    (out / "tune" / "tuner.pkl").write_bytes(b"")
    shutil.rmtree(out / "tune" / FOLDER / "tune")
    with pytest.raises(BadInput, match=r"tuner\.pkl is broken .* no copy of it"):
        run(candidate, out=out, resume=True)
