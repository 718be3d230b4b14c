"""What single callbacks need beyond Tune's calls: to work offline, to keep keys secret, to go on with their runs.

Ray's callbacks begin anew when a Tune experiment is restored. Here a member is the same run in every session.
"""

from __future__ import annotations

import os
import threading
from typing import Any

from raytune_rl.tracking.trials import MemberTrial

WANDB_KEY = "WANDB_API_KEY"

_environment = threading.Lock()
"""Ray's callback for Weights & Biases leaves its key in the environment, where another one would find it."""


def set_up(callback: Any, *, members: int, resumed: bool) -> None:
    """Call ``callback.setup`` as Tune does, for a population of ``members``."""
    if not _is(callback, "WandbLoggerCallback"):
        callback.setup(stop=None, num_samples=members, total_num_samples=members)
        return
    settings = callback.kwargs
    if resumed:
        settings.setdefault("resume", "allow")
    with _environment:
        if settings.get("mode") in ("offline", "disabled"):
            # Ray asks for an API key unless the environment says so too.
            os.environ["WANDB_MODE"] = settings["mode"]
        callback.setup(stop=None, num_samples=members, total_num_samples=members)
        key = os.environ.get(WANDB_KEY)
    if key:
        settings["settings"] = _with_key(settings.get("settings"), key)
    callback._remote_logger_class = _quiet_actor(callback._logger_actor_cls)


def go_on_with(callback: Any, trial: MemberTrial) -> None:
    """Before the start of a member's trial that has been logged in an earlier session.

    MLflow: its run is found by the name that Ray gave it. Parameters cannot change in MLflow, so only those that are
    not there yet are left for Ray to log.
    """
    runs = getattr(callback, "_trial_runs", None)
    if not _is(callback, "MLflowLoggerCallback") or runs is None or trial in runs:
        return
    client = callback.mlflow_util._get_client()
    found = client.search_runs(
        [callback.mlflow_util.experiment_id], filter_string=f"tags.trial_name = '{trial}'", max_results=1
    )
    if found:
        client.update_run(found[0].info.run_id, status="RUNNING")
        runs[trial] = found[0].info.run_id
        trial.set_config({name: value for name, value in trial.config.items() if name not in found[0].data.params})


def _with_key(settings: Any, key: str) -> Any:
    """Settings for ``wandb.init`` (none, a mapping or ``wandb.Settings``) with an API key."""
    if settings is None or isinstance(settings, dict):
        return {"api_key": key, **(settings or {})}
    return settings if settings.api_key else settings.model_copy(update={"api_key": key})


def _quiet_actor(logger_class: type) -> Any:
    """The actor that Ray's callback would make, without the API key in its runtime environment: Ray writes those into
    its logs."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here, max_restarts=-1, max_task_retries=-1)(logger_class)


def _is(callback: Any, name: str) -> bool:
    """Told by the class's name: importing the class would import its library."""
    return any(base.__name__ == name and base.__module__.startswith("ray.") for base in type(callback).mro())
