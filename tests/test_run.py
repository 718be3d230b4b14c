"""The command line as people use it: processes killed and interrupted, and mistakes that end before Ray starts."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
import ray

from raytune_rl.analysis import Run
from raytune_rl.cli.commands import BAD_INPUT
from raytune_rl.run import main
from raytune_rl.tune.storage import StateStore

EXPERIMENT = Path(__file__).with_name("paper_experiment.py")
DEADLINE = 150.0


def start(experiment: Path, *arguments: str, log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "raytune_rl.run", str(experiment), "--set", "agent.batch=16", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(EXPERIMENT.parents[1])}
    with log.open("ab") as output:
        return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)


def wait_for_rows(out: Path, rows: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end and process.poll() is None:
        if (out / "segments.parquet").is_dir() and len(pd.read_parquet(out / "segments.parquet")) >= rows:
            return
        time.sleep(0.1)
    raise AssertionError(f"no {rows} rows in {out}; exit status {process.poll()}")


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill -9, and wait for the processes of its Ray: a trial may write its state for a moment longer."""
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    _, left = psutil.wait_procs(family, timeout=DEADLINE)
    assert not left


def check_whole(out: Path, *, complete: bool) -> None:
    for name in ("segments", "decisions"):
        keys = pd.read_parquet(out / f"{name}.parquet")[["member", "segment"]]
        assert not keys.duplicated().any()
        per_member = keys.groupby("member")["segment"]
        assert (per_member.max() + 1 == per_member.count()).all()
        if complete:
            assert len(keys) == 4 * 60


def test_kill_minus_nine_and_resume_with_a_truncated_state(tmp_path: Path) -> None:
    out, log = tmp_path / "run", tmp_path / "log.txt"
    process = start(EXPERIMENT, "--out", str(out), log=log)
    wait_for_rows(out, 80, process)
    kill(process)
    check_whole(out, complete=False)
    before = pd.read_parquet(out / "segments.parquet")
    # As a crash in the middle of writing could leave it on a file system without atomic replacement.
    for place in ("driver", "trial-0"):
        folder = out / "state" / place
        newest = folder / f"state-{max(StateStore(str(folder)).generations()):08d}.bin"
        newest.write_bytes(newest.read_bytes()[:-100])
    assert start(EXPERIMENT, "--resume", str(out), log=log).wait(DEADLINE) == 0, log.read_text()
    check_whole(out, complete=True)
    after = pd.read_parquet(out / "segments.parquet")
    # Most of what had been trained is still there, to the digit.
    kept = before.merge(after, on=["member", "segment", "metric/loss", "hp/lr"])
    assert len(kept) > 0.4 * len(before)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["counts"]["segments"] == 240
    assert summary["agent"]["transitions"] >= 200
    told = [line for line in (out / "run.log").read_text().splitlines() if "cannot be used" in line]
    assert any("driver" in line for line in told) and any("trial 0:" in line for line in told), told
    assert (out / "report.html").stat().st_size > 10_000
    assert len(list((out / "tensorboard").glob("member-*/events.*"))) >= 4
    # What it has found can be trained again without the agent.
    again = tmp_path / "again"
    assert start(EXPERIMENT, "--replay", str(out), "--out", str(again), log=log).wait(DEADLINE) == 0, log.read_text()
    path = Run.load(out).schedule().values
    replayed = pd.read_parquet(again / "segments.parquet").sort_values("segment")
    assert list(replayed["hp/lr"]) == [values["lr"] for values in path]


def test_what_was_killed_before_its_first_segment_can_be_gone_on_with(tmp_path: Path) -> None:
    out, log = tmp_path / "run", tmp_path / "log.txt"
    process = start(EXPERIMENT, "--out", str(out), log=log)
    end = time.monotonic() + DEADLINE
    while not (out / "experiment.json").exists():
        assert time.monotonic() < end and process.poll() is None, log.read_text()
        time.sleep(0.01)
    kill(process)
    assert not (out / "segments.parquet").exists()
    assert start(EXPERIMENT, "--resume", str(out), log=log).wait(DEADLINE) == 0, log.read_text()
    check_whole(out, complete=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_stops_cleanly_and_prints_how_to_go_on(number: signal.Signals, tmp_path: Path) -> None:
    out, log = tmp_path / "run", tmp_path / "log.txt"
    process = start(EXPERIMENT, "--out", str(out), log=log)
    wait_for_rows(out, 40, process)
    process.send_signal(number)
    assert process.wait(DEADLINE) == 130, log.read_text()
    check_whole(out, complete=False)
    rows = len(pd.read_parquet(out / "segments.parquet"))
    command = shlex.split(log.read_text().strip().splitlines()[-1])
    assert command[:3] == ["python", "-m", "raytune_rl.run"] and command[-4:-2] != []
    again = subprocess.run(
        [sys.executable, *command[1:]],
        cwd=EXPERIMENT.parents[1],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert again.returncode == 0, again.stdout + again.stderr
    check_whole(out, complete=True)
    assert rows < 240
    assert "paper_experiment: loss" in again.stdout or "paper: loss" in again.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.py"], ["nowhere.py"]),
        ([str(EXPERIMENT), "--set", "populaton=3"], ["populaton", "population"]),
        ([str(EXPERIMENT), "--set", "population=0"], ["population is 0"]),
        ([str(EXPERIMENT), "--set", "population=few"], ["few"]),
        ([str(EXPERIMENT), "--set", "failures.max_restarts=-1"], ["failures.max_restarts is -1", "at least 0"]),
        ([str(EXPERIMENT), "--experiment", "other"], ["other", "experiment"]),
        ([str(EXPERIMENT), "--resume", "/nonexistent/run"], ["/nonexistent/run", "not a run directory"]),
        ([str(EXPERIMENT), "--seed", "-1"], ["seed is -1"]),
        ([str(EXPERIMENT), "--set", "stop.target=nan"], ["stop.target is nan", "a number"]),
        ([str(EXPERIMENT), "--out", f"{EXPERIMENT}/run"], [f"--out {EXPERIMENT}/run", "cannot be made"]),
        ([str(EXPERIMENT), "--out", str(EXPERIMENT)], [f"{EXPERIMENT}"]),
        ([str(EXPERIMENT), "--address", "127.0.0.1:1"], ["--address 127.0.0.1:1", "no Ray cluster answers there"]),
        (
            [str(EXPERIMENT), "--set", "population=1000", "--set", "members_per_trial=1"],
            ["members_per_trial is 1, which makes 1000 trials", "can run at once"],
        ),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == BAD_INPUT
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert len(captured.err.strip().splitlines()) == 1
    assert all(word in captured.err for word in words), captured.err
    assert "Traceback" not in captured.err


AUGMENTED = """
import threading
from ray import tune
from torch import nn
from raytune_rl import Experiment, TorchTask, augmentations, roles
from tests.population.models import blobs, mlp

def locked():
    lock = threading.Lock()
    return lambda inputs, strength, generator: inputs if lock else inputs

experiment = Experiment(
    candidate=TorchTask(mlp, blobs, loss=nn.CrossEntropyLoss(), {argument}),
    hyperparameters={{"noise": roles.augmentation(tune.uniform({low}, 1.0))}},
    metric="validation_loss", mode="min",
)
"""


@pytest.mark.parametrize(
    ("argument", "low", "words"),
    [
        ("", 0.0, ["'noise'", "TorchTask(augment=...)"]),
        ("augment=3", 0.0, ["augment must be a function", "int"]),
        ("augment=locked()", 0.0, ["cannot be pickled", "lock"]),
        ("augment=augmentations.noise", -0.5, ["'noise'", "-0.5", "augmentation"]),
    ],
)
def test_a_wrong_augmentation_ends_before_ray_starts(
    argument: str, low: float, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "augmented.py"
    file.write_text(AUGMENTED.format(argument=argument, low=low))
    assert main([str(file), "--out", str(tmp_path / "run")]) == BAD_INPUT
    told = capsys.readouterr().err.strip()
    assert told.startswith("error: ") and all(word in told.splitlines()[-1] for word in words), told
    assert not ray.is_initialized()


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    assert "examples:" in capsys.readouterr().out
