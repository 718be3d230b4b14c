"""Ray's own PBT examples run with only the scheduler exchanged, and survive the death of their driver."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from raytune_rl.tune.storage import StateStore
from raytune_rl.tune.trials.state import FOLDER
from tests.tune.trials.example_driver import NAMES, SEGMENTS

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
ROOT = Path(__file__).parents[3]
DRIVER = Path(__file__).with_name("example_driver.py")


@contextmanager
def driver(home: Path, *arguments: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """The example in a process and a Ray of its own."""
    environment = {**os.environ, "HOME": str(home), "RAY_ADDRESS": "local", "RAY_USAGE_STATS_ENABLED": "0", **variables}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    with open(home / f"{arguments[1]}.log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, str(DRIVER), *arguments],
            env=environment,
            cwd=home,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def finish(process: subprocess.Popen[str], log: Path, seconds: float) -> str:
    code = process.wait(timeout=seconds)
    words = log.read_text()
    assert code == 0, words[-3000:]
    return words


@pytest.mark.timeout(400)
@pytest.mark.parametrize("example", list(NAMES))
def test_the_example_runs(example: str, tmp_path: Path) -> None:
    with driver(tmp_path, example, "run", "--smoke-test") as process:
        words = finish(process, tmp_path / "run.log", 300)
    assert "Best hyperparameters found were" in words
    state = StateStore(str(tmp_path / "ray_results" / NAMES[example] / FOLDER)).load()
    assert state is not None
    assert len(state["members"]) == 8
    lrs = [opening["values"]["lr"] for track in state["tracks"].values() for opening in track["openings"]]
    assert all(1e-4 <= lr <= 2e-2 for lr in lrs)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("example", list(NAMES))
def test_the_example_survives_the_death_of_its_driver(example: str, tmp_path: Path) -> None:
    path = tmp_path / "ray_results" / NAMES[example]
    decisions = 8 * SEGMENTS[example] // 3
    with driver(tmp_path, example, "run", DIES_AFTER=str(decisions)) as process:
        code = process.wait(timeout=250)
    assert code == -signal.SIGKILL, (tmp_path / "run.log").read_text()[-3000:]
    killed = StateStore(str(path / FOLDER)).load()
    assert killed is not None
    with driver(tmp_path, example, "restore") as process:
        words = finish(process, tmp_path / "restore.log", 300)
    assert f"found the state of {len(killed['members'])} trials" in words
    line = next(line for line in words.splitlines() if line.startswith("RESULTS"))
    results = json.loads(line.removeprefix("RESULTS"))
    assert len(results) == 8
    assert all(error == "" for error, _, _ in results)
    state = StateStore(str(path / FOLDER)).load()
    assert state is not None
    assert killed["members"].items() <= state["members"].items()
    # Each has made exactly its segments, wherever it was when the driver died, and none twice in the end.
    for history in state["controller"]["histories"].values():
        assert max(history["states"]) == SEGMENTS[example]
