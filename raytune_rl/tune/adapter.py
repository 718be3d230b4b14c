"""Every call of Ray that Ray does not promise to keep, in one place.

Tune has no public way to call a method of a running trial's actor or to wake a trial that a scheduler has parked with
``NOOP``. Both exist underneath and are what keeps the members training while decisions are made; they were read in and
checked with the versions in ``CHECKED``. With any other Ray ``supports_in_place`` says no and ``PopulationScheduler``
goes the public way: ``Trial.set_config``, ``PAUSE`` and a restart from the host's state file, which is slow but right.
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
"""Ray's minor versions that the calls in this file were checked with."""


def supports_in_place(version: str = ray.__version__) -> bool:
    """Whether the calls below are known to hold for this version of Ray."""
    return ".".join(version.split(".")[:2]) in CHECKED


def submit(trial: Trial, method: str, *args: Any) -> ray.ObjectRef | None:
    """Call a method of the trial's actor without Tune knowing; ``None`` if the trial has no actor now.

    Calls from the driver run in the order in which they were made, so this one runs before the next ``train``. Tune
    neither waits for it nor fetches what it returns (through ``call_in_place`` it would, into the driver, one turn of
    its event loop each), and does not count its failure as the trial's. That the actor died is told by ``train``.
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

    ``on_error`` gets what the method raises; the trial itself does not fail by it. A dead actor is handed on to Tune:
    whichever of an actor's tasks notices the death discards all the others, so that nobody else would tell Tune.
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
    """Let a trial that ``NOOP`` has parked train again, by a method of its actor that does more than ``train`` and
    returns the same. One call instead of two, since a decision is on its way only when the last one is made."""
    core = tune_controller_of(controller)
    if trial in core._trial_to_actor:
        core._schedule_trial_task(
            trial, method, args, on_result=core._on_training_result, on_error=core._trial_task_failure
        )


def forget_finished(controller: Any, trial: Trial) -> None:
    """Let go of the results of a trial's finished tasks.

    Tune keeps a reference to the result of every task until the trial ends: 2 kB per segment for two members, for ever.
    """
    core = tune_controller_of(controller)
    manager = core._actor_manager
    kept = manager._tracked_actors_to_task_futures.get(core._trial_to_actor.get(trial))
    if kept:
        kept.intersection_update(manager._actor_task_events.get_futures())


def training_result(directory: Path, metrics: Mapping[str, Any]) -> _TrainingResult:
    """What ``Trainable.restore`` takes so that it gets its iteration and times back as well as its files."""
    return _TrainingResult(checkpoint=tune.Checkpoint.from_directory(str(directory)), metrics=dict(metrics))


def homeless(cls: type[tune.Trainable]) -> type[tune.Trainable]:
    """``cls`` with a temporary log directory: outside a trial Trainables leave one in ``~/ray_results`` otherwise."""

    def _setup_logdir(self: Any) -> None:
        self._logdir_holder = tempfile.TemporaryDirectory(prefix="raytune_rl-")
        self._logdir = self._logdir_holder.name

    return type(cls.__name__, (cls,), {"_setup_logdir": _setup_logdir, "__module__": cls.__module__})


def tune_controller_of(controller: Any) -> Any:
    """The ``TuneController`` behind the wrapper that schedulers get, which warns about every attribute it passes on."""
    return getattr(controller, "__dict__", {}).get("_tune_controller", controller)


def _ignore(trial: Trial, result: Any) -> None:
    """Tune wants an ``on_result`` in order to watch a task."""
