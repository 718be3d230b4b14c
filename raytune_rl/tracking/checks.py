"""What can be wrong with an experiment's callbacks before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raytune_rl.errors import BadInput

EXTRAS = {"mlflow": ("MLflow", "mlflow"), "wandb": ("Weights & Biases", "wandb"), "mlxtend": ("mlxtend", "bench")}
"""By module, libraries that experiment files may need and raytune_rl has an extra for: the name, and the extra's."""


def check_callbacks(callbacks: Sequence[Any] | None) -> None:
    """Raise ``BadInput`` when a callback could not be sent to the process that it is to work in."""
    from ray import cloudpickle

    for callback in callbacks or ():
        try:
            cloudpickle.dumps(callback)
        except Exception as error:
            # Not the message: it may quote the callback's fields, an API key among them.
            raise BadInput(
                f"callbacks holds a {type(callback).__name__} that cannot be pickled ({type(error).__name__}), which "
                "Ray needs to send it to the tracking process; open files and connections in its setup()."
            ) from None


def missing_library(error: BaseException) -> str | None:
    """What to install, where an experiment file failed because an optional library is missing; ``None`` otherwise.

    Ray's callbacks import their library when they are made, so the error comes out of the user's own file.
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
