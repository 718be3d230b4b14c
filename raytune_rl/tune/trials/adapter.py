"""The private side of Ray that a scheduler of one-member trials needs: which checkpoint a trial goes on from.

Tune has no public way to say "go on from that trial's checkpoint". Ray's own PBT writes into the trial's checkpoint
manager, and so does this file, which holds all such places; ``adapter.CHECKED`` names the Ray versions they hold for.
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
        restarts: it is a function whose actor can be reset and restored where it is (the user reuses actors).
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
class Saved:
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
        """Whether it has not been deleted meanwhile (``num_to_keep``; ray issues 9036, 8441)."""
        with contextlib.suppress(OSError):
            info = self.checkpoint.filesystem.get_file_info(self.checkpoint.path)
            return bool(info.type != pafs.FileType.NotFound)
        return False


# -- checkpoints ------------------------------------------------------------------------------------------------------


def latest(trial: Trial) -> Saved | None:
    """What the trial would go on from."""
    return _saved(trial.latest_checkpoint_result)


def best(trial: Trial, metric: str, mode: Mode) -> Saved | None:
    """The trial's own checkpoint with the best metric, of those that still exist."""

    def score(saved: Saved) -> float:
        value = flatten_dict(dict(saved.metrics)).get(metric)
        if not isinstance(value, int | float) or math.isnan(value):
            return -math.inf
        return -value if mode == "min" else value

    found = [saved for saved in _kept(trial) if score(saved) > -math.inf]
    return next((saved for saved in sorted(found, key=score, reverse=True) if saved.exists()), None)


def goes_on_from(trial: Trial, checkpoint: tune.Checkpoint, metrics: Mapping[str, Any]) -> None:
    """Let the paused trial go on from ``checkpoint``, with the counters in ``metrics``."""
    result = _TrainingResult(checkpoint=checkpoint, metrics=dict(metrics))
    trial.run_metadata.checkpoint_manager._latest_checkpoint_result = result
    trial.run_metadata.invalidate_cache()


def goes_on_from_nothing(trial: Trial) -> None:
    """Let the paused trial begin anew."""
    trial.run_metadata.checkpoint_manager._latest_checkpoint_result = None
    trial.run_metadata.last_result = {}
    trial.run_metadata.invalidate_cache()


def find_checkpoint(trial: Trial, known: Mapping[str, tuple[int, float]] | None = None) -> Saved | None:
    """What a trial that comes back can go on from: its latest checkpoint, or the newest one that still exists.

    Args:
        trial: not running.
        known: checkpoints in its folder that Tune may have forgotten, by name: iteration and seconds of training.

    Tune's snapshot of the experiment may be older than the checkpoints: what it calls the latest can have been deleted
    since, and a trial that is sent there fails. So is the rest of its list cleared of what is gone: Tune would count on
    from it, and delete new checkpoints by the names of old ones.
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
        goes_on_from(trial, kept.checkpoint, kept.metrics)
    else:
        goes_on_from_nothing(trial)
    gone = f"{newest.checkpoint.path} is gone" if newest else "is newer than Tune's snapshot"
    goes_on = f"iteration {kept.iteration}" if kept else "its start"
    logger.warning("the checkpoint of trial %s %s; it goes on from %s", trial.trial_id, gone, goes_on)
    return kept


def copy_into(trial: Trial, checkpoint: tune.Checkpoint, at: int) -> tune.Checkpoint:
    """A copy of ``checkpoint`` in the trial's own folder, so that its owner may delete the original; older copies go.

    On a local disk the files are linked, not copied: checkpoints are written once.

    Raises:
        OSError: it is gone, or there is no room.
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
    """Have a running trial write a checkpoint after what it is doing now."""
    core = tune_controller_of(controller)
    if not trial.is_saving and trial in core._trial_to_actor:
        core._schedule_trial_save(trial, result=dict(result))


def pause_parked(controller: Any, trial: Trial) -> None:
    """Take a parked trial out of its actor, with what it has trained.

    A function was saved at its report. Saved again, it would stand twice in Tune's list with one folder for both,
    which Tune deletes as soon as either is not among the best (``num_to_keep``), be it the trial's latest or not.
    """
    is_function = issubclass(trial.get_trainable_cls() or tune.Trainable, FunctionTrainable)
    saved = latest(trial) if is_function else None
    is_saved = saved is not None and saved.iteration >= trial.last_result.get(TRAINING_ITERATION, 0)
    tune_controller_of(controller).pause_trial(trial, should_checkpoint=not is_saved)


def restart_in_place(controller: Any, trial: Trial) -> None:
    """Reset a parked trial's actor to the trial's configuration and let it go on from its latest checkpoint.

    That is what Tune does when it hands a trial a used actor, here the trial's own, which saves the start of a process
    where no other trial waits. An actor that refuses is given up for a new one. A trial that Tune has paused meanwhile
    has none, and will do the same when it comes back.
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
    """In ``on_trial_error``: whether Tune starts the trial again (it has been marked as failed already, then)."""
    return bool(trial.status == Trial.ERROR)


def is_at_work(controller: Any, trial: Trial) -> bool:
    """Whether the trial's actor has been asked for something and has not answered. That of a parked trial has not."""
    core = tune_controller_of(controller)
    manager = core._actor_manager
    asked: set[Any] = manager._tracked_actors_to_task_futures.get(core._trial_to_actor.get(trial), set())
    return not asked.isdisjoint(manager._actor_task_events.get_futures())


def kill(trial: Trial) -> None:
    """End the trial's process. Tune notices, and treats the trial as failed. It would ask an actor that it is told of
    to stop, and wait: one that hangs does not answer, and keeps its slot."""
    actor = trial.temporary_state.ray_actor
    if actor is not None:
        ray.kill(actor)


def fail(controller: Any, trial: Trial, error: str) -> None:
    """Treat the trial as failed, by the user's ``FailureConfig``."""
    tune_controller_of(controller)._trial_task_failure(trial, exception=tune.TuneError(error))


def reuses_actors(controller: Any) -> bool:
    return bool(tune_controller_of(controller)._reuse_actors)


def is_being_handed_an_actor(controller: Any, trial: Trial) -> bool:
    """Whether a waiting trial has got another one's actor, and is about to run. Who names it again as the next to run
    keeps Tune from seeing that a second actor is wanted, and an actor that is set free meanwhile is stopped."""
    return supports_in_place() and trial in tune_controller_of(controller)._resetting_trials


def search_is_over(controller: Any) -> bool:
    """Whether no more trials will be added."""
    return bool(tune_controller_of(controller).search_alg.is_finished())


def at_end(controller: Any, action: Callable[[], None]) -> None:
    """Call ``action`` when the experiment has ended, whichever way, while its Ray is still there; at the latest when
    the controller is gone or this process exits. It may be called more than once.

    Schedulers are not told of an end by a ``Stopper`` for all trials, but callbacks are."""
    core = tune_controller_of(controller)
    weakref.finalize(core, action)
    callbacks = core._callbacks
    # Another list, since this one is the user's own, for the next Tuner as well.
    callbacks._callbacks = [*callbacks._callbacks, _AtEnd(action)]


class _AtEnd(tune.Callback):
    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        try:
            self._action()
        except Exception as error:  # must not take the place of the experiment's results, or of its own error
            logger.warning("the end of the experiment: %s: %s", type(error).__name__, error)
            logger.debug("the traceback", exc_info=True)


# -- inside the trial's actor -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def detached(instance: tune.Trainable) -> Iterator[None]:
    """Saves and restores inside do not touch the trial's storage or counters: Tune does not know about them."""
    names = ("_storage", "_timesteps_total", "_episodes_total", "_time_since_restore", "_iterations_since_restore")
    before = {name: getattr(instance, name) for name in names}
    instance._storage = None
    try:
        yield
    finally:
        vars(instance).update(before)


def counters(instance: tune.Trainable) -> dict[str, Any]:
    """What ``Trainable.restore`` takes from a checkpoint's result, as it is now."""
    state = instance.get_state()
    return {
        TRAINING_ITERATION: state["iteration"],
        TIME_TOTAL_S: state["time_total"],
        TIMESTEPS_TOTAL: state["timesteps_total"],
        EPISODES_TOTAL: state["episodes_total"],
    }


def _kept(trial: Trial) -> list[Saved]:
    """The trial's own checkpoints that Tune holds."""
    results = trial.run_metadata.checkpoint_manager.best_checkpoint_results
    return [saved for saved in map(_saved, results) if saved is not None]


def _saved(result: Any) -> Saved | None:
    if result is None or result.checkpoint is None:
        return None
    return Saved(checkpoint=result.checkpoint, metrics=result.metrics or {})


def _known(trial: Trial, name: str, iteration: int, seconds: float) -> Saved:
    checkpoint = tune.Checkpoint(f"{trial.storage.trial_fs_path}/{name}", trial.storage.storage_filesystem)
    return Saved(checkpoint=checkpoint, metrics={TRAINING_ITERATION: iteration, TIME_TOTAL_S: seconds})


def _number(saved: Saved) -> int:
    """The number in the name of a checkpoint that Tune has named, else -1."""
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
