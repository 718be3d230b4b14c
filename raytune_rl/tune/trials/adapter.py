"""Private calls of Ray that only trials of one member need: above all, from which checkpoint a trial continues.

Tune has no public way to say "continue from that trial's checkpoint". Like Ray's own PBT, this file writes into the
trial's checkpoint manager. It also pauses, saves, resets and kills trials at moments when Tune would not. The private
calls that hosts need too are in ``raytune_rl/tune/adapter.py``, whose ``CHECKED`` names the versions of Ray that both
files were tested with.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import os
import re
import shutil
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

import ray
from pyarrow import fs as pafs
from ray import tune
from ray.air.constants import TRAINING_ITERATION
from ray.train._internal.session import _TrainingResult
from ray.tune.experiment import Trial
from ray.tune.experiment.trial import _TrialInfo
from ray.tune.result import EPISODES_TOTAL, STDERR_FILE, STDOUT_FILE, TIME_TOTAL_S, TIMESTEPS_TOTAL, TRIAL_INFO
from ray.tune.trainable.function_trainable import FunctionTrainable
from ray.tune.utils import flatten_dict

from raytune_rl.records import Mode
from raytune_rl.tune.adapter import supports_in_place, tune_controller_of

logger = logging.getLogger(__name__)

COPY_PREFIX = "copied_"
"""Directories in a trial's folder that hold weights of another trial; Tune's own are named ``checkpoint_...``."""

_OWN = re.compile(r"checkpoint_(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Abilities:
    """What can be done with trials of one Trainable.

    Attributes:
        function: it is a function that reports; it can be interrupted only where it reports a checkpoint.
        saves: it can be saved and restored.
        in_place: it is a class with ``reset_config``, so its running actor can be changed.
        restarts: it is a function whose actor can be reset and restored without a pause (the user reuses actors).
    """

    function: bool = False
    saves: bool = False
    in_place: bool = False
    restarts: bool = False

    @classmethod
    def of(cls, controller: Any, trial: Trial) -> Abilities:
        trainable = trial.get_trainable_cls() or tune.Trainable
        known = supports_in_place()
        if issubclass(trainable, FunctionTrainable):
            return cls(function=True, saves=True, restarts=known and reuses_actors(controller))
        saves = all(
            getattr(trainable, name) is not getattr(tune.Trainable, name)
            for name in ("save_checkpoint", "load_checkpoint")
        )
        resets = trainable.reset_config is not tune.Trainable.reset_config
        return cls(saves=saves, in_place=saves and resets and known)

    def without_in_place(self) -> Abilities:
        return replace(self, in_place=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedCheckpoint:
    """A checkpoint in storage and the result that it was taken at."""

    checkpoint: tune.Checkpoint
    metrics: Mapping[str, Any] = field(default_factory=dict)

    @property
    def iteration(self) -> int:
        """Tune's count of reports."""
        return int(self.metrics.get(TRAINING_ITERATION) or 0)

    @property
    def name(self) -> str:
        """The folder that it is in."""
        return PurePosixPath(self.checkpoint.path).name

    def exists(self) -> bool:
        """Whether it still exists: ``num_to_keep`` deletes checkpoints (ray issues 9036, 8441)."""
        with contextlib.suppress(OSError):
            info = self.checkpoint.filesystem.get_file_info(self.checkpoint.path)
            return bool(info.type != pafs.FileType.NotFound)
        return False


# -- checkpoints ------------------------------------------------------------------------------------------------------


def latest(trial: Trial) -> SavedCheckpoint | None:
    """What the trial would continue from."""
    return _saved(trial.latest_checkpoint_result)


def best(trial: Trial, metric: str, mode: Mode) -> SavedCheckpoint | None:
    """The trial's own checkpoint with the best metric, of those that still exist."""

    def score(saved: SavedCheckpoint) -> float:
        value = flatten_dict(dict(saved.metrics)).get(metric)
        if not isinstance(value, int | float) or math.isnan(value):
            return -math.inf
        return -value if mode == "min" else value

    scored = [saved for saved in _kept(trial) if score(saved) > -math.inf]
    return next((saved for saved in sorted(scored, key=score, reverse=True) if saved.exists()), None)


def start_from(trial: Trial, checkpoint: tune.Checkpoint, metrics: Mapping[str, Any]) -> None:
    """Let the paused trial continue from ``checkpoint``, with the counters in ``metrics``."""
    result = _TrainingResult(checkpoint=checkpoint, metrics=dict(metrics))
    trial.run_metadata.checkpoint_manager._latest_checkpoint_result = result
    trial.run_metadata.invalidate_cache()


def start_from_nothing(trial: Trial) -> None:
    """Let the paused trial start again from the beginning."""
    trial.run_metadata.checkpoint_manager._latest_checkpoint_result = None
    trial.run_metadata.last_result = {}
    trial.run_metadata.invalidate_cache()


def find_checkpoint(trial: Trial, known: Mapping[str, tuple[int, float]] | None = None) -> SavedCheckpoint | None:
    """What a trial that comes back can continue from: its latest checkpoint, or the newest one that still exists.

    Args:
        trial: not running.
        known: checkpoints in its folder that Tune may have forgotten, by name: iteration and seconds of training.

    Tune's snapshot of the experiment may be older than the checkpoints. What it calls the latest may have been deleted
    since then, and a trial that is to restore it fails. The rest of Tune's list is cleared of missing checkpoints too,
    and the count for new names is advanced: Tune would reuse names, and then delete new checkpoints for old ones.
    """
    manager = trial.run_metadata.checkpoint_manager
    newest = latest(trial)
    numbers = [_number(saved) for saved in (*_kept(trial), newest) if saved is not None]
    numbers += [int(match[1]) for name in _folders(trial) if (match := _OWN.fullmatch(name))]
    storage = trial.storage
    storage.current_checkpoint_index = max([storage.current_checkpoint_index, *numbers])
    manager._checkpoint_results = [r for r in manager._checkpoint_results if (s := _saved(r)) and s.exists()]
    if newest.exists() if newest else not known:
        return newest
    also = [_known(trial, name, *when) for name, when in (known or {}).items()]
    there = [saved for saved in (*_kept(trial), *also) if saved.exists()]
    kept = max(there, key=lambda saved: saved.iteration, default=None)
    if kept is not None:
        start_from(trial, kept.checkpoint, kept.metrics)
    else:
        start_from_nothing(trial)
    gone = f"{newest.checkpoint.path} is gone" if newest else "is newer than Tune's snapshot"
    goes_on = f"iteration {kept.iteration}" if kept else "its start"
    logger.warning("the checkpoint of trial %s %s; it goes on from %s", trial.trial_id, gone, goes_on)
    return kept


def copy_into(trial: Trial, checkpoint: tune.Checkpoint, at: int) -> tune.Checkpoint:
    """A copy of ``checkpoint`` in the trial's own folder, because its owner may delete the original. Older copies are
    deleted.

    On a local disk the files are linked, not copied: nobody changes the files of a checkpoint.

    Raises:
        OSError: the checkpoint is gone, or the disk is full.
    """
    storage = trial.storage
    target = f"{storage.trial_fs_path}/{COPY_PREFIX}{at:06d}"
    filesystem = storage.storage_filesystem
    if isinstance(filesystem, pafs.LocalFileSystem) and isinstance(checkpoint.filesystem, pafs.LocalFileSystem):
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(checkpoint.path, target, copy_function=_link)
    else:
        filesystem.create_dir(target)
        pafs.copy_files(
            checkpoint.path, target, source_filesystem=checkpoint.filesystem, destination_filesystem=filesystem
        )
    for name in _folders(trial):
        if name.startswith(COPY_PREFIX) and name != PurePosixPath(target).name:
            with contextlib.suppress(OSError):
                filesystem.delete_dir(f"{storage.trial_fs_path}/{name}")
    return tune.Checkpoint(path=target, filesystem=filesystem)


def reports_checkpoint(result: Mapping[str, Any]) -> bool:
    """Whether a function's report came with a checkpoint."""
    return bool(result.get("should_checkpoint"))


def save(controller: Any, trial: Trial, result: Mapping[str, Any]) -> None:
    """Have a running trial write a checkpoint after its present task."""
    core = tune_controller_of(controller)
    if not trial.is_saving and trial in core._trial_to_actor:
        core._schedule_trial_save(trial, result=dict(result))


def pause_parked(controller: Any, trial: Trial) -> None:
    """Pause a parked trial, saved.

    A function has been saved with its report already. Saved again, it would be twice in Tune's list with one folder for
    both, which Tune deletes as soon as either is not among the best (``num_to_keep``), even if it is the latest.
    """
    is_function = issubclass(trial.get_trainable_cls() or tune.Trainable, FunctionTrainable)
    saved = latest(trial) if is_function else None
    is_saved = saved is not None and saved.iteration >= trial.last_result.get(TRAINING_ITERATION, 0)
    tune_controller_of(controller).pause_trial(trial, should_checkpoint=not is_saved)


def restart_in_place(controller: Any, trial: Trial) -> None:
    """Reset a parked trial's actor to the trial's configuration and let it continue from its latest checkpoint.

    Tune does the same when it gives a trial a used actor. Here that is the trial's own, which saves the start of a
    process if no other trial waits for the slot. If the actor refuses, the trial gets a new one. A trial that Tune has
    paused meanwhile has no actor, and starts with the new configuration when it comes back.
    """
    core = tune_controller_of(controller)
    if trial not in core._trial_to_actor:
        logger.info("trial %s has no actor to be reset: it starts again when it gets one", trial.trial_id)
        return
    config = copy.deepcopy(trial.config)
    config[TRIAL_INFO] = _TrialInfo(trial)
    config[STDOUT_FILE], config[STDERR_FILE] = trial.log_to_file

    def done(trial: Trial, success: bool) -> None:
        if not success:
            core.pause_trial(trial, should_checkpoint=False)
        elif not core._schedule_trial_restore(trial):
            core._schedule_trial_train(trial)

    core._schedule_trial_task(
        trial,
        "reset",
        args=(config,),
        kwargs={"storage": trial.storage},
        on_result=done,
        on_error=core._trial_task_failure,
    )


# -- the experiment ---------------------------------------------------------------------------------------------------


def will_recover(trial: Trial) -> bool:
    """In ``on_trial_error``: whether Tune will start the trial again. Only then is its status ``ERROR`` already."""
    return bool(trial.status == Trial.ERROR)


def is_at_work(controller: Any, trial: Trial) -> bool:
    """Whether the trial's actor is working on a task. That of a parked trial is not."""
    core = tune_controller_of(controller)
    manager = core._actor_manager
    asked: set[Any] = manager._tracked_actors_to_task_futures.get(core._trial_to_actor.get(trial), set())
    return not asked.isdisjoint(manager._actor_task_events.get_futures())


def kill(trial: Trial) -> None:
    """End the trial's process. Tune notices that, and treats the trial as failed. Stopped through Tune, an actor that
    hangs would keep its slot, because Tune asks it to stop and waits."""
    actor = trial.temporary_state.ray_actor
    if actor is not None:
        ray.kill(actor)


def fail(controller: Any, trial: Trial, error: str) -> None:
    """Treat the trial as failed, as the user's ``FailureConfig`` says."""
    tune_controller_of(controller)._trial_task_failure(trial, exception=tune.TuneError(error))


def reuses_actors(controller: Any) -> bool:
    return bool(tune_controller_of(controller)._reuse_actors)


def is_being_handed_an_actor(controller: Any, trial: Trial) -> bool:
    """Whether a waiting trial is being given another one's actor, and is about to run.

    Offering such a trial again would hide from Tune that a second actor is needed; Tune would stop one that becomes
    free meanwhile.
    """
    return supports_in_place() and trial in tune_controller_of(controller)._resetting_trials


def search_is_over(controller: Any) -> bool:
    """Whether no more trials will be added."""
    return bool(tune_controller_of(controller).search_alg.is_finished())


def at_end(controller: Any, action: Callable[[], None]) -> None:
    """Call ``action`` when the experiment has ended, in whatever way, while Ray is still running; at the latest when
    the controller is deleted or this process exits. It may be called more than once.

    A callback of Tune's does it: schedulers are not told when a ``Stopper`` ends all trials."""
    core = tune_controller_of(controller)
    weakref.finalize(core, action)
    callbacks = core._callbacks
    # A new list: this one is the user's, who may give it to another Tuner.
    callbacks._callbacks = [*callbacks._callbacks, _AtEnd(action)]


class _AtEnd(tune.Callback):
    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        try:
            self._action()
        except Exception as error:  # must not replace the experiment's results, or its own error
            logger.warning("the end of the experiment: %s: %s", type(error).__name__, error)
            logger.debug("the traceback", exc_info=True)


# -- inside the trial's actor -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def detached(instance: tune.Trainable) -> Iterator[None]:
    """Inside, saves and restores leave the trial's storage and counters alone, because Tune does not know of them."""
    names = ("_storage", "_timesteps_total", "_episodes_total", "_time_since_restore", "_iterations_since_restore")
    before = {name: getattr(instance, name) for name in names}
    instance._storage = None
    try:
        yield
    finally:
        vars(instance).update(before)


def counters(instance: tune.Trainable) -> dict[str, Any]:
    """The present values of what ``Trainable.restore`` takes from a checkpoint's result."""
    state = instance.get_state()
    return {
        TRAINING_ITERATION: state["iteration"],
        TIME_TOTAL_S: state["time_total"],
        TIMESTEPS_TOTAL: state["timesteps_total"],
        EPISODES_TOTAL: state["episodes_total"],
    }


def _kept(trial: Trial) -> list[SavedCheckpoint]:
    """The trial's own checkpoints that Tune holds."""
    results = trial.run_metadata.checkpoint_manager.best_checkpoint_results
    return [saved for saved in map(_saved, results) if saved is not None]


def _saved(result: Any) -> SavedCheckpoint | None:
    if result is None or result.checkpoint is None:
        return None
    return SavedCheckpoint(checkpoint=result.checkpoint, metrics=result.metrics or {})


def _known(trial: Trial, name: str, iteration: int, seconds: float) -> SavedCheckpoint:
    checkpoint = tune.Checkpoint(f"{trial.storage.trial_fs_path}/{name}", trial.storage.storage_filesystem)
    return SavedCheckpoint(checkpoint=checkpoint, metrics={TRAINING_ITERATION: iteration, TIME_TOTAL_S: seconds})


def _number(saved: SavedCheckpoint) -> int:
    """The number in the name of a checkpoint that Tune has named; -1 for a copy."""
    match = _OWN.fullmatch(saved.name)
    return int(match[1]) if match else -1


def _folders(trial: Trial) -> list[str]:
    selector = pafs.FileSelector(trial.storage.trial_fs_path, allow_not_found=True)
    infos = trial.storage.storage_filesystem.get_file_info(selector)
    return [info.base_name for info in infos if info.type == pafs.FileType.Directory]


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
