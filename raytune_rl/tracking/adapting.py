"""Adapts particular callbacks: they must work offline, keep API keys secret, and continue their runs when resumed.

Ray's callbacks start new runs when a Tune experiment is restored. Here a member is the same run in every session.
"""

from __future__ import annotations

import os
import threading
from typing import Any

from raytune_rl.tracking.trials import MemberTrial

WANDB_KEY = "WANDB_API_KEY"

_environment = threading.Lock()
"""Held while a callback for Weights & Biases is set up: it passes its key through the environment, where another
callback could take it for its own."""


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
            # without this variable Ray would ask for an API key
            os.environ["WANDB_MODE"] = settings["mode"]
        callback.setup(stop=None, num_samples=members, total_num_samples=members)
        key = os.environ.get(WANDB_KEY)
    if key:
        settings["settings"] = _with_key(settings.get("settings"), key)
    callback._remote_logger_class = _quiet_actor(callback._logger_actor_cls)


def go_on_with(callback: Any, trial: MemberTrial) -> None:
    """Make ``callback`` continue the run of a member that an earlier session has logged. To be called before the start
    of its trial.

    Only MLflow needs this. The run is found by the name that Ray gave it. Parameters cannot change in MLflow, so those
    that are logged already are removed from the trial's configuration.
    """
    runs = getattr(callback, "_trial_runs", None)
    if not _is(callback, "MLflowLoggerCallback") or runs is None or trial in runs:
        return
    client = callback.mlflow_util._get_client()
    matching = client.search_runs(
        [callback.mlflow_util.experiment_id], filter_string=f"tags.trial_name = '{trial}'", max_results=1
    )
    if matching:
        run = matching[0]
        client.update_run(run.info.run_id, status="RUNNING")
        runs[trial] = run.info.run_id
        trial.set_config({name: value for name, value in trial.config.items() if name not in run.data.params})


def _with_key(settings: Any, key: str) -> Any:
    """Settings for ``wandb.init`` (none, a mapping or ``wandb.Settings``) with an API key."""
    if settings is None or isinstance(settings, dict):
        return {"api_key": key, **(settings or {})}
    return settings if settings.api_key else settings.model_copy(update={"api_key": key})


def _quiet_actor(logger_class: type) -> Any:
    """The actor class that Ray's callback would use, but without the API key in its runtime environment, as Ray writes
    runtime environments into its logs."""
    import ray

    return ray.remote(**on_this_node(), max_restarts=-1, max_task_retries=-1)(logger_class)


def on_this_node() -> dict[str, Any]:
    """Ray's options for an actor that takes no CPU and runs on the driver's node."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    this_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return {"num_cpus": 0, "scheduling_strategy": this_node}


def _is(callback: Any, name: str) -> bool:
    """Whether a callback is an instance of Ray's class ``name``. Compares names, because importing the class would
    import its library."""
    return any(base.__name__ == name and base.__module__.startswith("ray.") for base in type(callback).mro())
