"""Which checkpoint a trial goes on from, and what is done when it is not there any more."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from pyarrow import fs as pafs
from ray import tune
from ray.train._internal.checkpoint_manager import _CheckpointManager
from ray.train._internal.session import _TrainingResult
from ray.tune.callback import CallbackList
from ray.tune.execution.tune_controller import TuneController

from raytune_rl.tune.adapter import CHECKED
from raytune_rl.tune.trials import adapter
from raytune_rl.tune.trials.adapter import Abilities
from tests.tune.trainables import Counter, WithoutReset, counting


def trial_in(path: Path, num_to_keep: int | None = None) -> Any:
    """As much of a trial as has to do with checkpoints, with Ray's own manager of them."""
    path.mkdir(exist_ok=True)
    manager = _CheckpointManager(tune.CheckpointConfig(num_to_keep=num_to_keep))
    storage = SimpleNamespace(
        trial_fs_path=str(path), storage_filesystem=pafs.LocalFileSystem(), current_checkpoint_index=-1
    )

    class TrialLike(SimpleNamespace):
        @property
        def latest_checkpoint_result(self) -> Any:
            return manager.latest_checkpoint_result

    metadata = SimpleNamespace(checkpoint_manager=manager, invalidate_cache=lambda: None, last_result={"x": 1})
    return TrialLike(trial_id="t1", storage=storage, run_metadata=metadata)


def register(trial: Any, iteration: int, total: float) -> Path:
    """Have the trial write a checkpoint, as Tune does."""
    directory = Path(trial.storage.trial_fs_path, f"checkpoint_{iteration:06d}")
    directory.mkdir()
    (directory / "state").write_text(str(total))
    metrics = {"training_iteration": iteration, "inner": {"total": total}}
    checkpoint = tune.Checkpoint.from_directory(str(directory))
    trial.run_metadata.checkpoint_manager.register_checkpoint(_TrainingResult(checkpoint=checkpoint, metrics=metrics))
    return directory


def remove(directory: Path) -> None:
    (directory / "state").unlink()
    directory.rmdir()


def test_ray_is_one_that_the_private_calls_were_checked_with() -> None:
    assert ".".join(ray.__version__.split(".")[:2]) in CHECKED
    core = inspect.getsource(TuneController)
    for name in ("_trial_to_actor", "_schedule_trial_save", "_schedule_trial_restore", "_schedule_trial_train"):
        assert name in core
    for name in ("_trial_task_failure", "_reuse_actors", "_resetting_trials", "_schedule_trial_task", "pause_trial"):
        assert name in core


def test_the_best_checkpoint_is_the_best_that_still_exists(tmp_path: Path) -> None:
    trial = trial_in(tmp_path / "a")
    directories = [register(trial, i, total) for i, total in enumerate([3.0, 9.0, float("nan"), 5.0])]
    found = adapter.best(trial, "inner/total", "max")
    assert found is not None
    assert found.iteration == 1
    remove(directories[1])
    found = adapter.best(trial, "inner/total", "max")
    assert found is not None
    assert found.iteration == 3
    found = adapter.best(trial, "inner/total", "min")
    assert found is not None
    assert found.iteration == 0
    assert adapter.best(trial, "other", "max") is None


def test_a_copy_outlives_its_original(tmp_path: Path) -> None:
    donor, receiver = trial_in(tmp_path / "donor", num_to_keep=1), trial_in(tmp_path / "receiver")
    register(donor, 1, 10.0)
    saved = adapter.latest(donor)
    assert saved is not None
    copy = adapter.copy_into(receiver, saved.checkpoint, 7)
    register(donor, 2, 20.0)  # deletes the first one
    assert not saved.exists()
    assert Path(copy.path, "state").read_text() == "10.0"
    adapter.start_from(receiver, copy, {"training_iteration": 7})
    latest = adapter.latest(receiver)
    assert latest is not None
    assert (latest.iteration, latest.exists()) == (7, True)
    # The next copy takes the place of this one.
    newer = adapter.latest(donor)
    assert newer is not None
    adapter.copy_into(receiver, newer.checkpoint, 9)
    assert sorted(os.listdir(tmp_path / "receiver")) == ["copied_000009"]


def test_a_copy_of_what_is_gone_is_an_error_that_can_be_caught(tmp_path: Path) -> None:
    receiver = trial_in(tmp_path / "receiver")
    with pytest.raises(OSError):
        adapter.copy_into(receiver, tune.Checkpoint(str(tmp_path / "gone")), 1)


def test_a_copy_goes_through_any_file_system(tmp_path: Path) -> None:
    donor, receiver = trial_in(tmp_path / "donor"), trial_in(tmp_path / "receiver")
    register(donor, 1, 10.0)
    saved = adapter.latest(donor)
    assert saved is not None
    receiver.storage.storage_filesystem = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    receiver.storage.trial_fs_path = "receiver"
    copy = adapter.copy_into(receiver, saved.checkpoint, 3)
    assert (copy.path, (tmp_path / copy.path / "state").read_text()) == ("receiver/copied_000003", "10.0")


def test_a_missing_latest_checkpoint_is_replaced_by_an_older_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trial = trial_in(tmp_path / "a")
    directories = [register(trial, i, float(i)) for i in (3, 6, 9)]
    remove(directories[2])
    found = adapter.find_checkpoint(trial)
    assert found is not None
    assert found.iteration == 6
    assert adapter.latest(trial) == found
    assert "is gone" in caplog.text
    # Newer than what Tune remembers, but known to us.
    remove(Path(found.checkpoint.path))
    (tmp_path / "a" / "checkpoint_000008").mkdir()
    known = {"checkpoint_000005": (5, 0.5), "checkpoint_000008": (8, 0.8)}
    found = adapter.find_checkpoint(trial, known)
    assert found is not None
    assert (found.iteration, found.metrics["time_total_s"]) == (8, 0.8)
    (tmp_path / "a" / "checkpoint_000008").rmdir()
    remove(directories[0])
    assert adapter.find_checkpoint(trial) is None
    assert adapter.latest(trial) is None


def test_a_checkpoint_that_tune_did_not_know_is_found(tmp_path: Path) -> None:
    trial = trial_in(tmp_path / "a")
    assert adapter.find_checkpoint(trial) is None
    (tmp_path / "a" / "checkpoint_000002").mkdir()
    known = {"checkpoint_000001": (1, 0.1), "checkpoint_000002": (2, 0.2)}
    found = adapter.find_checkpoint(trial, known)
    assert found is not None
    assert found.iteration == 2
    assert adapter.latest(trial) == found


def test_a_restored_trial_neither_uses_nor_deletes_old_names(tmp_path: Path) -> None:
    trial = trial_in(tmp_path / "a", num_to_keep=3)
    directories = [register(trial, i, float(i)) for i in (4, 8, 9)]
    remove(directories[1])
    remove(directories[2])  # by a run that was killed after the snapshot
    adapter.find_checkpoint(trial)
    assert trial.storage.current_checkpoint_index == 9  # the next one is 10, a name that nothing knows
    for i in (10, 11):
        register(trial, i, float(i))
    assert sorted(os.listdir(tmp_path / "a")) == ["checkpoint_000004", "checkpoint_000010", "checkpoint_000011"]


@pytest.mark.parametrize("reuse", [True, False])
def test_abilities(reuse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def of(trainable: Any) -> Abilities:
        cls = trainable if isinstance(trainable, type) else tune.trainable.wrap_function(trainable)
        controller: Any = SimpleNamespace(_reuse_actors=reuse)
        return Abilities.of(controller, SimpleNamespace(get_trainable_cls=lambda: cls))  # type: ignore[arg-type]

    assert of(Counter) == Abilities(saves=True, in_place=True)
    assert of(WithoutReset) == Abilities(saves=True)
    assert of(counting) == Abilities(function=True, saves=True, restarts=reuse)
    assert of(type("Bare", (tune.Trainable,), {})) == Abilities()
    monkeypatch.setattr(adapter, "supports_in_place", lambda: False)
    assert of(Counter) == Abilities(saves=True)
    assert of(counting) == Abilities(function=True, saves=True)


def test_counters_and_storage_survive_a_detour(tmp_path: Path) -> None:
    instance: Any = SimpleNamespace(
        _storage="s", _timesteps_total=5, _episodes_total=None, _time_since_restore=2.0, _iterations_since_restore=3
    )
    before = dict(vars(instance))
    with adapter.detached(instance):
        assert instance._storage is None
        instance._timesteps_total, instance._time_since_restore = None, 0.0
    assert vars(instance) == before


class Core:
    """What Tune's controller has of callbacks; it can be referred to weakly."""

    def __init__(self, callbacks: CallbackList) -> None:
        self._callbacks = callbacks


def test_the_end_of_an_experiment_is_told_and_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """The users' list of callbacks stays theirs, and what goes wrong here does not replace their results."""
    theirs: list[tune.Callback] = [tune.Callback()]
    controller = Core(CallbackList(theirs))
    called = []

    def action() -> None:
        called.append(1)
        if len(called) == 1:
            raise OSError("full")

    adapter.at_end(controller, action)
    controller._callbacks.on_experiment_end(trials=[])
    assert called == [1] and len(theirs) == 1
    assert "the end of the experiment: OSError: full" in caplog.text
    assert controller._callbacks.get_state() is None  # nothing of it is kept for a restored run
