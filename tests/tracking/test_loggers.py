"""Ray's callbacks driven for members, read back with the libraries' own readers."""

from __future__ import annotations

import csv
import threading
from pathlib import Path
from typing import Any

import pytest
from ray.tune.logger import CSVLoggerCallback, LoggerCallback, TBXLoggerCallback

from raytune_rl.controller.policies import PBT
from raytune_rl.records import Step
from raytune_rl.rundir.environment import describe_experiment
from raytune_rl.rundir.layout import RunDirectory
from raytune_rl.tracking.loggers import Loggers, Population, folder_name
from raytune_rl.tracking.results import entries_of
from tests.controller.worlds import Paper, make_controller
from tests.tracking.events import hyperparameters, scalars


def population(root: Path, **changes: Any) -> Population:
    return Population(**{"root": str(root), "group": "paper-0a1b2c3d", "members": 4, **changes})


def play(segments: int = 6) -> list[Step]:
    world = Paper(make_controller(PBT()))
    return [world.generation() for _ in range(segments)]


def log(loggers: Loggers, steps: list[Step]) -> list[str]:
    problems: list[str] = []
    for step in steps:
        problems += loggers.log(entries_of(step))
    return problems + loggers.finish(60.0)


def test_tensorboard_shows_a_run_per_member(tmp_path: Path) -> None:
    steps = play()
    assert log(Loggers((), population(tmp_path)), steps) == []
    for member in range(4):
        folder = tmp_path / "tensorboard" / f"member-{member}"
        losses = [step.reports[member].metrics["loss"] for step in steps]
        assert scalars(folder, "ray/tune/loss") == [(i + 1, pytest.approx(v)) for i, v in enumerate(losses)]
        rates = [step.reports[member].hyperparameters["lr"] for step in steps]
        assert scalars(folder, "ray/tune/hp/lr") == [(i + 1, pytest.approx(v)) for i, v in enumerate(rates)]
        rewards = [step.rewards[member] for step in steps]
        assert scalars(folder, "ray/tune/agent/reward") == [(i + 1, pytest.approx(v)) for i, v in enumerate(rewards)]
        # The hyperparameters that it started with, for TensorBoard's table of runs.
        assert hyperparameters(folder) == [dict(steps[0].reports[member].hyperparameters)]


def test_a_resumed_run_goes_on_in_the_same_folder(tmp_path: Path) -> None:
    steps = play()
    assert log(Loggers((), population(tmp_path)), steps[:4]) == []
    folder = tmp_path / "tensorboard" / "member-0"
    (first,) = folder.iterdir()
    first.rename(first.with_name(first.name.replace("tfevents.", "tfevents.0")))  # as from another second
    starts = {0: {"lr": 0.5}}
    assert log(Loggers((), population(tmp_path, resumed=True, starts=starts)), steps[3:]) == []
    assert len(list(folder.iterdir())) == 2
    assert [step for step, _ in scalars(folder, "ray/tune/loss")] == [1, 2, 3, 4, 4, 5, 6]
    assert hyperparameters(folder) == [dict(steps[0].reports[0].hyperparameters), {"lr": 0.5}]


def test_a_callback_of_the_users_own_choice_writes_beside(tmp_path: Path) -> None:
    steps = play()
    assert log(Loggers((CSVLoggerCallback(),), population(tmp_path), tensorboard=False), steps) == []
    assert [path.name for path in tmp_path.iterdir()] == ["csv"]
    with (tmp_path / "csv" / "member-2" / "progress.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows] == [step.reports[2].metrics["loss"] for step in steps]
    assert rows[0]["trial_id"] == "member-2-0a1b2c3d"


class Events(LoggerCallback):
    """Writes down what it is called with."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def setup(self, *args: Any, **info: Any) -> None:
        self.calls.append(f"setup {info['total_num_samples']}")

    def log_trial_start(self, trial: Any) -> None:
        assert Path(trial.local_path).is_dir() and trial.experiment_dir_name == "paper-0a1b2c3d"
        self.calls.append(f"start {trial} {trial.trial_id} {trial.status}")

    def log_trial_end(self, trial: Any, failed: bool = False) -> None:
        self.calls.append(f"end {trial.trial_id} {trial.status} {failed}")

    def on_experiment_end(self, trials: Any, **info: Any) -> None:
        self.calls.append("over")


@pytest.mark.parametrize(("segments", "end"), [(6, "TERMINATED False"), (3, "ERROR True")])
def test_every_trial_starts_and_ends_once(tmp_path: Path, segments: int, end: str) -> None:
    callback = Events()
    assert log(Loggers((callback,), population(tmp_path), tensorboard=False), play(segments)) == []
    assert callback.calls[0] == "setup 4"
    assert callback.calls[1] == "start paper-0a1b2c3d-member-0 member-0-0a1b2c3d RUNNING"
    assert sorted(callback.calls[-5:-1]) == [f"end member-{m}-0a1b2c3d {end}" for m in range(4)]
    assert callback.calls[-1] == "over"


def test_a_trial_that_comes_back_after_its_end_is_started_again(tmp_path: Path) -> None:
    callback = Events()
    steps = play()
    assert log(Loggers((callback,), population(tmp_path, members=4), tensorboard=False), [*steps, steps[-1]]) == []
    again = [call.split()[0] for call in callback.calls if "member-0-" in call]
    assert again == ["start", "end", "start", "end"]


class Broken(LoggerCallback):
    """Raises at a member's second segment, and quotes its key."""

    def __init__(self, api_key: str) -> None:
        self.api_key = api_key
        self.results = 0

    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
        self.results += 1
        if iteration == 2:
            raise ConnectionError(f"https://me:pw@host refuses {self.api_key} and {trial}\nwith details")


def test_a_callback_that_raises_is_switched_off_once_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "paper-0a1b2c3d-member")  # stands for a key that a message quotes
    broken = Broken("k3y")
    problems = log(Loggers((broken,), population(tmp_path)), play())
    assert problems == [
        "Broken is switched off, the run goes on without it: ConnectionError: https://host refuses (hidden) and "
        "(hidden)-0"
    ]
    assert broken.results == 5
    assert len(scalars(tmp_path / "tensorboard" / "member-3", "ray/tune/loss")) == 6


class Stuck(LoggerCallback):
    """Waits for a server that never answers."""

    never = threading.Event()

    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
        self.never.wait()


def test_a_callback_that_hangs_holds_up_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raytune_rl.tracking.loggers.BACKLOG", 10)
    loggers = Loggers((Stuck(), TBXLoggerCallback()), population(tmp_path))
    problems: list[str] = []
    for step in play():
        problems += loggers.log(entries_of(step))
    problems += loggers.finish(1.0)
    assert problems[0].startswith("Stuck is 10 segments behind")
    assert problems[-1].startswith("Stuck has not finished after 1 s")
    # TensorBoard's own backlog may have been full for a moment too; nothing of it hung.
    assert not any("TBX" in problem and "finished" in problem for problem in problems)
    Stuck.never.set()


def test_folders_are_named_after_rays_classes() -> None:
    from ray.air.integrations.mlflow import MLflowLoggerCallback
    from ray.air.integrations.wandb import WandbLoggerCallback

    class Mine(CSVLoggerCallback): ...

    bare = [kind.__new__(kind) for kind in (TBXLoggerCallback, MLflowLoggerCallback, WandbLoggerCallback, Mine, Events)]
    assert [folder_name(callback) for callback in bare] == ["tensorboard", "mlflow", "wandb", "csv", "events"]
    for callback in bare:  # their __del__ expects what __init__ makes
        vars(callback).setdefault("_trial_logging_actors", {})


def test_only_the_names_of_callbacks_are_written_down(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    described = describe_experiment(name="paper", experiment={"callbacks": (Broken("k3y"),)}, seed=0)
    directory.write_json("experiment.json", described)
    assert directory.read_json("experiment.json")["experiment"]["callbacks"] == [f"{__name__}:Broken"]
    assert "k3y" not in (tmp_path / "experiment.json").read_text()
