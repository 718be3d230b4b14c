"""Which part of a torch task a hyperparameter changes. Does not import torch: checks must be quick, the package light.

A candidate gets values by name only, so the experiment passes the roles in ``TorchTask.roles``. A role decides; without
one, the first of these that fits: an argument of the network, a common name, a setting of the loss.
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
"""What a value is written to. ``network``: an argument of the factory, used only when the network is built. ``loss``: a
setting of the loss. ``initialisation``: a scheme (text) or a gain (a number), used at the start only."""

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
    """The names that the factory takes by keyword, and whether each is required."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {
        parameter.name: parameter.default is inspect.Parameter.empty
        for parameter in inspect.signature(factory).parameters.values()
        if parameter.kind in named
    }


def loss_settings(loss: Callable[..., Any]) -> frozenset[str]:
    """Names of the settings that can be changed on a loss: the numeric attributes of a module (``label_smoothing`` of
    cross entropy, ``delta`` of Huber), or the keywords of a function after ``(outputs, targets)``."""
    if hasattr(loss, "forward"):
        numbers = {name for name, value in vars(loss).items() if type(value) in (int, float)}
        return frozenset(name for name in numbers if not name.startswith("_"))
    return frozenset(list(network_arguments(loss))[2:])


def loss_setting(name: str, place: Place, loss: Callable[..., Any]) -> str:
    """The setting of the loss that a hyperparameter whose place is ``loss`` or ``label_smoothing`` is written to."""
    return "label_smoothing" if place == "label_smoothing" and name not in loss_settings(loss) else name


def place_of(name: str, *, role: str | None, network: Callable[..., Any], loss: Callable[..., Any]) -> Place | None:
    """What the hyperparameter ``name`` changes; ``None`` if it would change nothing."""
    place: Place | None = role if role in PLACES else None
    if place is None:
        known = _BY_NAME.get(name)
        # dropout is the only argument of a network that can be changed in the finished network, too
        place = "network" if name in network_arguments(network) and known != "dropout" else known
    if place in (None, "label_smoothing"):
        settings = loss_settings(loss)
        if place is None:
            return "loss" if name in settings else None
        return place if loss_setting(name, place, loss) in settings else None
    return place
