"""The tracker in front of the real logging process."""

from __future__ import annotations

import logging
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs
from ray.tune.logger import LoggerCallback

from raytune_rl.controller.policies import PBT
from raytune_rl.rundir import RunDirectory, TableWriter, column_types
from raytune_rl.tracking import Tracker
from tests.controller.worlds import Paper, make_controller
from tests.tracking.events import hyperparameters, scalars

pytestmark = pytest.mark.usefixtures("ray_cluster")


class Witness(LoggerCallback):
    """Writes its process, working directory, a variable of the environment and its niceness into a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def log_trial_start(self, trial: Any) -> None:
        variable = os.environ["TRACKING_TEST"]
        (self.folder / str(trial.trial_id)).write_text(f"{os.getpid()} {os.getcwd()} {variable} {os.nice(0)}")


class Refused(LoggerCallback):
    def __init__(self) -> None:
        self.api_key = "k3y"

    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
        raise PermissionError(f"{self.api_key} is not welcome")


class Fatal(LoggerCallback):
    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
        if iteration == 3:
            os.kill(os.getpid(), signal.SIGKILL)


def play(tracker: Tracker, directory: RunDirectory, segments: int, *, silent: int = 0) -> Paper:
    """So many segments into the tables and, but for the first ``silent`` ones, the tracker."""
    world = Paper(make_controller(PBT()))
    tables = TableWriter(
        directory,
        hyperparameters=column_types(world.controller.space),
        features=world.controller.observation.features,
        actions=[head.name.removeprefix("hp/") for head in world.controller.actions.heads],
    )
    for index in range(segments):
        step = world.generation()
        tables.write(step)
        if index >= silent:
            tracker.record(step)
    tables.flush()
    return world


def test_members_are_shown_in_the_run_directory_over_two_sessions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TRACKING_TEST", "inherited")
    directory = RunDirectory(tmp_path / "run").create()
    seen = tmp_path / "seen"
    seen.mkdir()
    with Tracker((Witness(seen),), directory, name="my paper", members=4) as tracker:
        play(tracker, directory, 3)
    with (
        caplog.at_level(logging.WARNING, "raytune_rl"),
        Tracker((Refused(),), directory, name="my paper", members=4) as tracker,
    ):
        world = play(tracker, directory, 6, silent=3)
    for member in range(4):
        folder = tmp_path / "run" / "tensorboard" / f"member-{member}"
        assert [step for step, _ in scalars(folder, "ray/tune/loss")] == [1, 2, 3, 4, 5, 6]
        first = dict(world.controller.begin(member).hyperparameters)
        assert hyperparameters(folder) == [pytest.approx(first), pytest.approx(first)]
    assert [record.getMessage() for record in caplog.records] == [
        "Refused is switched off, the run goes on without it: PermissionError: (hidden) is not welcome"
    ]
    group = directory.read_json("state/tracking.json")["group"]
    assert group.startswith("my-paper-")
    names = sorted(path.name for path in seen.iterdir())
    assert names == [f"member-{m}-{group.removeprefix('my-paper-')}" for m in range(4)]
    process, place, variable, niceness = (seen / names[0]).read_text().split()
    assert int(process) != os.getpid() and int(niceness) >= 10
    assert (place, variable) == (os.getcwd(), "inherited")


def test_what_a_process_that_dies_has_not_written_is_made_up_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = RunDirectory(tmp_path).create()
    with (
        caplog.at_level(logging.WARNING, "raytune_rl"),
        Tracker((Fatal(),), directory, name="paper", members=4) as tracker,
    ):
        play(tracker, directory, 5)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1 and messages[0].startswith("experiment tracking is off: ")
    with Tracker((), directory, name="paper", members=4) as tracker:
        world = play(tracker, directory, 6, silent=5)
    for member in range(4):
        logged = dict(scalars(tmp_path / "tensorboard" / f"member-{member}", "ray/tune/loss"))
        assert sorted(logged) == [1, 2, 3, 4, 5, 6]
        assert logged[6] == pytest.approx(world.losses[member])


def test_a_directory_that_is_not_local_gets_the_files_at_the_end(tmp_path: Path) -> None:
    there = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())  # not a LocalFileSystem to RunDirectory
    directory = RunDirectory("run", filesystem=there).create()
    assert directory.local is None
    step = Paper(make_controller(PBT())).generation()
    with Tracker((), directory, name="paper", members=4) as tracker:
        play(tracker, directory, 3)
        began = time.perf_counter()
        for _ in range(100):
            tracker.record(step)
        assert time.perf_counter() - began < 0.1  # a decision waits for none of this
    folder = tmp_path / "run" / "tensorboard" / "member-1"
    assert [step for step, _ in scalars(folder, "ray/tune/loss")][:3] == [1, 2, 3]


def test_without_tracking_nothing_is_written(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path).create()
    with Tracker(None, directory, name="paper", members=4) as tracker:
        tracker.record(Paper(make_controller(PBT())).generation())
    assert list(tmp_path.iterdir()) == []
