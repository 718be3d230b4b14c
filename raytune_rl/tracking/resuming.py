"""What single callbacks need so that they work without a network and go on with their runs after ``--resume``.

Ray's callbacks begin anew when a Tune experiment is restored. Here a member is the same run in every session.
"""

from __future__ import annotations

import os
from typing import Any

from raytune_rl.tracking.trials import MemberTrial


def prepare(callback: Any, *, resumed: bool) -> None:
    """Before ``setup``."""
    settings = getattr(callback, "kwargs", None)
    if _is(callback, "WandbLoggerCallback") and isinstance(settings, dict):
        if settings.get("mode") in ("offline", "disabled"):
            # Ray asks for an API key unless the environment says so too.
            os.environ["WANDB_MODE"] = settings["mode"]
        if resumed:
            settings.setdefault("resume", "allow")


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


def _is(callback: Any, name: str) -> bool:
    """Told by the class's name: importing the class would import its library."""
    return any(base.__name__ == name and base.__module__.startswith("ray.") for base in type(callback).mro())
