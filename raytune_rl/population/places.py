"""Where a hyperparameter takes hold of a torch task. No torch here: checks must be quick and the package light.

A candidate gets values by name only, so the experiment hands the roles over in ``TorchTask.roles``. A role decides;
without one the network's arguments do, then common names, then the loss's own settings.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias, get_args

Place: TypeAlias = Literal[
    "learning_rate",
    "weight_decay",
    "momentum",
    "batch_size",
    "grad_clip",
    "dropout",
    "label_smoothing",
    "frozen_layers",
    "augmentation",
    "initialisation",
    "network",
    "loss",
]
"""What a value is written to. ``network``: an argument of the factory, used when the network is built and never
again. ``loss``: a setting of the loss. ``initialisation``: a scheme (text) or a gain (a number), at the start only."""

PLACES: tuple[Place, ...] = get_args(Place)
START_ONLY: frozenset[Place] = frozenset({"network", "initialisation"})

_BY_NAME: Mapping[str, Place] = {
    "lr": "learning_rate",
    "learning_rate": "learning_rate",
    "wd": "weight_decay",
    "weight_decay": "weight_decay",
    "momentum": "momentum",
    "beta1": "momentum",
    "batch_size": "batch_size",
    "grad_clip": "grad_clip",
    "dropout": "dropout",
    "label_smoothing": "label_smoothing",
    "frozen_layers": "frozen_layers",
    "augmentation": "augmentation",
    "initialisation": "initialisation",
    "initialization": "initialisation",
    "init": "initialisation",
    "gain": "initialisation",
}


def network_arguments(factory: Callable[..., Any]) -> dict[str, bool]:
    """Names that the factory takes by keyword, and whether each must be given."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {
        parameter.name: parameter.default is inspect.Parameter.empty
        for parameter in inspect.signature(factory).parameters.values()
        if parameter.kind in named
    }


def loss_settings(loss: Callable[..., Any]) -> frozenset[str]:
    """Names that can be changed on a loss: the numeric attributes of a module (``label_smoothing`` of cross entropy,
    ``delta`` of Huber), the keywords of a function after ``(outputs, targets)``."""
    if hasattr(loss, "forward"):
        numbers = {name for name, value in vars(loss).items() if type(value) in (int, float)}
        return frozenset(name for name in numbers if not name.startswith("_"))
    return frozenset(list(network_arguments(loss))[2:])


def loss_setting(name: str, place: Place, loss: Callable[..., Any]) -> str:
    """The setting of the loss that a hyperparameter at ``loss`` or ``label_smoothing`` is written to."""
    return "label_smoothing" if place == "label_smoothing" and name not in loss_settings(loss) else name


def place_of(name: str, *, role: str | None, network: Callable[..., Any], loss: Callable[..., Any]) -> Place | None:
    """Where the hyperparameter ``name`` takes hold, ``None`` where nothing would feel it."""
    place: Place | None = role if role in PLACES else None
    if place is None:
        known = _BY_NAME.get(name)
        # dropout is the one argument of a network that can also be changed in the finished network
        place = "network" if name in network_arguments(network) and known != "dropout" else known
    if place in (None, "label_smoothing"):
        settings = loss_settings(loss)
        if place is None:
            return "loss" if name in settings else None
        return place if loss_setting(name, place, loss) in settings else None
    return place
