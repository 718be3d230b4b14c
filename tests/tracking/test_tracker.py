"""The tracker in front of the real logging process."""

from __future__ import annotations

import logging
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from ray.tune.logger import LoggerCallback

from raytune_rl.controller.policies import PBT
from raytune_rl.rundir import RunDirectory, TableWriter, column_types
from raytune_rl.tracking import Tracker
from tests.controller.worlds import Paper, make_controller
from tests.tracking.events import hyperparameters, scalars

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray_cluster")]

WAIT = 60.0


class Witness(LoggerCallback):
    """Writes its process, working directory and key into the run's folder; dies or raises if it is told to."""

    def __init__(self, folder: str, fault: str = "") -> None:
        self.folder, self.fault, self.api_key = folder, fault, "k3y"

    def log_trial_start(self, trial: Any) -> None:
        Path(self.folder, str(trial.trial_id)).write_text(
            f"{os.getpid()} {os.getcwd()} {os.environ['TRACKING_TEST_KEY']} {os.nice(0)}"
        )

    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
        if self.fault == "raise":
            raise RuntimeError(f"no {self.api_key}")
        if self.fault == "die":
            os.kill(os.getpid(), signal.SIGKILL)


def play(tracker: Tracker, directory: RunDirectory, segments: int) -> Paper:
    world = Paper(make_controller(PBT()))
    tables = TableWriter(
        directory,
        hyperparameters=column_types(world.controller.space),
        features=world.controller.observation.features,
        actions=[head.name.removeprefix("hp/") for head in world.controller.actions.heads],
    )
    for _ in range(segments):
        step = world.generation()
        tables.write(step)
        tracker.record(step)
    tables.flush()
    return world


def test_members_are_shown_in_the_run_directory_over_two_sessions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKING_TEST_KEY", "inherited")
    directory = RunDirectory(tmp_path / "run").create()
    (tmp_path / "seen").mkdir()
    for segments in (3, 6):
        with Tracker((Witness(str(tmp_path / "seen")),), directory, name="my paper", members=4) as tracker:
            world = play(tracker, directory, segments)
            tracker.finish()
    for member in range(4):
        folder = tmp_path / "run" / "tensorboard" / f"member-{member}"
        assert [step for step, _ in scalars(folder, "ray/tune/loss")] == [1, 2, 3, 1, 2, 3, 4, 5, 6]
        first = dict(world.controller.begin(member).hyperparameters)
        assert hyperparameters(folder) == [pytest.approx(first), pytest.approx(first)]
    group = directory.read_json("state/tracking.json")["group"]
    assert group.startswith("my-paper-")
    seen = sorted(path.name for path in (tmp_path / "seen").iterdir())
    assert seen == [f"member-{m}-{group.rpartition('-')[2]}" for m in range(4)]
    process, folder_there, key, niceness = (tmp_path / "seen" / seen[0]).read_text().split()
    assert int(process) != os.getpid() and int(niceness) >= 10
    assert (folder_there, key) == (os.getcwd(), "inherited")


def test_a_callback_that_raises_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TRACKING_TEST_KEY", "inherited")
    directory = RunDirectory(tmp_path).create()
    callbacks = (Witness(str(tmp_path), "raise"),)
    with (
        caplog.at_level(logging.WARNING, "raytune_rl"),
        Tracker(callbacks, directory, name="paper", members=4) as tracker,
    ):
        play(tracker, directory, 4)
    assert [record.getMessage() for record in caplog.records] == [
        "Witness is switched off, the run goes on without it: RuntimeError: no (hidden)"
    ]
    assert len(scalars(tmp_path / "tensorboard" / "member-0", "ray/tune/loss")) == 4


def test_a_process_that_dies_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TRACKING_TEST_KEY", "inherited")
    directory = RunDirectory(tmp_path).create()
    callbacks = (Witness(str(tmp_path), "die"),)
    with (
        caplog.at_level(logging.WARNING, "raytune_rl"),
        Tracker(callbacks, directory, name="paper", members=4) as tracker,
    ):
        play(tracker, directory, 2)
        end = time.monotonic() + WAIT
        while not caplog.records and time.monotonic() < end:
            play(tracker, directory, 1)
            time.sleep(0.2)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1 and messages[0].startswith("experiment tracking is off: ")


def test_taking_a_step_down_costs_the_run_nothing(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path).create()
    step = Paper(make_controller(PBT())).generation()
    with Tracker((), directory, name="paper", members=4) as tracker:
        began = time.perf_counter()
        for _ in range(100):
            tracker.record(step)
        assert time.perf_counter() - began < 0.1


def test_without_tracking_nothing_is_written(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path).create()
    with Tracker(None, directory, name="paper", members=4) as tracker:
        tracker.record(Paper(make_controller(PBT())).generation())
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_not_local_gets_the_files_at_the_end(tmp_path: Path) -> None:
    from pyarrow import fs

    there = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())  # not a LocalFileSystem to RunDirectory
    directory = RunDirectory("run", filesystem=there).create()
    assert directory.local is None
    with Tracker((), directory, name="paper", members=4) as tracker:
        play(tracker, directory, 3)
    folder = tmp_path / "run" / "tensorboard" / "member-1"
    assert [step for step, _ in scalars(folder, "ray/tune/loss")] == [1, 2, 3]
