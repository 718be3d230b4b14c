"""Checks of an experiment's callbacks before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raytune_rl.errors import BadInput

EXTRAS = {"mlflow": ("MLflow", "mlflow"), "wandb": ("Weights & Biases", "wandb"), "mlxtend": ("mlxtend", "bench")}
"""Optional libraries that experiment files may need: by module, the library's name and the extra that installs it."""


def check_callbacks(callbacks: Sequence[Any] | None) -> None:
    """Raise ``BadInput`` if a callback cannot be sent to the tracking process."""
    from ray import cloudpickle

    for callback in callbacks or ():
        try:
            cloudpickle.dumps(callback)
        except Exception as error:
            # The error's message is left out: it may contain the callback's fields, including an API key.
            raise BadInput(
                f"callbacks holds a {type(callback).__name__} that cannot be pickled ({type(error).__name__}), which "
                "Ray needs to send it to the tracking process; open files and connections in its setup()."
            ) from None


def missing_library(error: BaseException) -> str | None:
    """What to install, if an experiment file has failed because an optional library is missing; else ``None``.

    Ray's callbacks import their library when they are created, so the error is raised in the user's file.
    """
    library = None
    if isinstance(error, ModuleNotFoundError):
        library = (error.name or "").partition(".")[0]
    elif isinstance(error, RuntimeError) and str(error).lower().startswith("wandb was not found"):
        library = "wandb"
    if library not in EXTRAS:
        return None
    name, extra = EXTRAS[library]
    return f"{name} is not installed; install it with: pip install 'raytune_rl[{extra}]'."
