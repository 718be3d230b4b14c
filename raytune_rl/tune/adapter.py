"""Private calls of Ray that hosts and trials need: to a running trial's actor, and to wake a parked trial.

Tune has no public way to call a trial's actor, or to wake a trial that a scheduler has parked with ``NOOP``. Both are
needed so that members train on while decisions are made. Private calls that only trials of one member need are in
``trials/adapter.py``. All were read in the source of, and tested with, the versions of Ray in ``CHECKED``. With any
other version ``supports_in_place`` is false, and decisions are delivered by pauses and restarts instead, which is slow
but correct (``hosts.delivery.ByPause``, ``trials.changes``).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayActorError
from ray.train._internal.session import _TrainingResult
from ray.tune.experiment import Trial

CHECKED = ("2.60",)
"""Ray's minor versions that the calls in both files were checked with."""


def supports_in_place(version: str = ray.__version__) -> bool:
    """Whether the private calls are known to work with this version of Ray."""
    return ".".join(version.split(".")[:2]) in CHECKED


def submit(trial: Trial, method: str, *args: Any) -> ray.ObjectRef | None:
    """Call a method of the trial's actor behind Tune's back; ``None`` if the trial has no actor now.

    An actor runs the driver's calls in the order in which they were made, so this one runs before the next ``train``.
    Tune does not wait for it, does not count its failure as the trial's, and does not fetch its result (with
    ``call_in_place`` it would, in one turn of its event loop each). If the actor dies, Tune learns that from ``train``.
    """
    actor = trial.temporary_state.ray_actor
    return None if actor is None else getattr(actor, method).remote(*args)


def call_in_place(
    controller: Any,
    trial: Trial,
    method: str,
    *args: Any,
    on_error: Callable[[Trial, Exception], None],
    on_result: Callable[[Trial, Any], None] | None = None,
) -> None:
    """Call a method of the trial's actor as one of Tune's own tasks, in order with its ``train`` calls.

    ``on_error`` gets the exception that the method raises; the trial does not fail because of it. A dead actor is
    reported to Tune here: the first of an actor's tasks to notice its death discards the others, so nobody else would.
    """
    core = tune_controller_of(controller)

    def failed(trial: Trial, exception: Exception) -> None:
        on_error(trial, exception)
        if isinstance(exception, RayActorError):
            core._trial_task_failure(trial, exception=exception)

    core._schedule_trial_task(trial, method, args, on_result=on_result or _ignore, on_error=failed)


def resume_training(controller: Any, trial: Trial) -> None:
    """Let a trial that ``NOOP`` has parked train again."""
    core = tune_controller_of(controller)
    if trial in core._trial_to_actor:
        core._schedule_trial_train(trial)


def train_on(controller: Any, trial: Trial, method: str, *args: Any) -> None:
    """Let a trial that ``NOOP`` has parked train again, by a method of its actor that does something else first and
    then returns what ``train`` does. One call instead of two gets the decision on its way sooner."""
    core = tune_controller_of(controller)
    if trial in core._trial_to_actor:
        core._schedule_trial_task(
            trial, method, args, on_result=core._on_training_result, on_error=core._trial_task_failure
        )


def forget_finished(controller: Any, trial: Trial) -> None:
    """Drop the references to the results of a trial's finished tasks.

    Tune keeps one per task until the trial ends: 2 kB per segment for two members.
    """
    core = tune_controller_of(controller)
    manager = core._actor_manager
    kept = manager._tracked_actors_to_task_futures.get(core._trial_to_actor.get(trial))
    if kept:
        kept.intersection_update(manager._actor_task_events.get_futures())


def training_result(directory: Path, metrics: Mapping[str, Any]) -> _TrainingResult:
    """An argument for ``Trainable.restore`` that brings back its iteration and times as well as its files."""
    return _TrainingResult(checkpoint=tune.Checkpoint.from_directory(str(directory)), metrics=dict(metrics))


def homeless(cls: type[tune.Trainable]) -> type[tune.Trainable]:
    """``cls`` with a temporary log directory: outside a trial, Trainables would leave one in ``~/ray_results``."""

    def _setup_logdir(self: Any) -> None:
        self._logdir_holder = tempfile.TemporaryDirectory(prefix="raytune_rl-")
        self._logdir = self._logdir_holder.name

    return type(cls.__name__, (cls,), {"_setup_logdir": _setup_logdir, "__module__": cls.__module__})


def tune_controller_of(controller: Any) -> Any:
    """The ``TuneController`` behind the wrapper that schedulers get, which warns about each private attribute."""
    return getattr(controller, "__dict__", {}).get("_tune_controller", controller)


def _ignore(trial: Trial, result: Any) -> None:
    """Tune tracks a task only if it has an ``on_result``."""
