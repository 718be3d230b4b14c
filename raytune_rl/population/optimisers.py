"""Optimisers by name, and their inner state as numpy arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
import torch

OptimizerName: TypeAlias = Literal["adam", "adamw", "sgd"]
OptimizerFactory: TypeAlias = Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer]
"""Makes an optimiser of parameters. Its groups are steered by torch's own keys: ``lr``, ``weight_decay`` and
``momentum`` or ``betas``."""

NAMES: tuple[OptimizerName, ...] = ("adam", "adamw", "sgd")


def make_optimizer(
    kind: OptimizerName | OptimizerFactory,
    parameters: Iterable[torch.nn.Parameter],
    *,
    learning_rate: float,
    weight_decay: float,
    momentum: float,
) -> torch.optim.Optimizer:
    """A new optimiser; ``momentum`` is SGD's, and the first beta of Adam and AdamW. A factory's own settings stand."""
    if not isinstance(kind, str):
        return kind(parameters)
    if kind == "sgd":
        return torch.optim.SGD(parameters, lr=learning_rate, weight_decay=weight_decay, momentum=momentum)
    adam = torch.optim.AdamW if kind == "adamw" else torch.optim.Adam
    # one kernel for all parameters: small networks are bound by the number of calls
    return adam(parameters, lr=learning_rate, weight_decay=weight_decay, betas=(momentum, 0.999), fused=True)


def set_momentum(group: dict[str, Any], value: float) -> None:
    if "betas" in group:
        group["betas"] = (value, *group["betas"][1:])
    else:
        group["momentum"] = value


def get_momentum(group: Mapping[str, Any]) -> float:
    return float(group["betas"][0] if "betas" in group else group["momentum"])


def to_numpy(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """A copy. numpy has no bfloat16, so its bits travel as uint16."""
    copied = tensor.detach().to("cpu", copy=True)
    return (copied.view(torch.uint16) if copied.dtype == torch.bfloat16 else copied).numpy()


def to_tensor(array: np.ndarray[Any, Any]) -> torch.Tensor:
    """The inverse of ``to_numpy``, a copy on the CPU."""
    copied = torch.tensor(array)
    return copied.view(torch.bfloat16) if copied.dtype == torch.uint16 else copied


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Any]]:
    """Moments and step counts by the index of their parameter; settings are hyperparameters and not in here."""
    state = optimizer.state_dict()["state"]
    return {index: {key: _encode(value) for key, value in slots.items()} for index, slots in state.items()}


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[int, Mapping[str, Any]]) -> None:
    decoded = {index: {key: _decode(value) for key, value in slots.items()} for index, slots in state.items()}
    optimizer.load_state_dict({"state": decoded, "param_groups": optimizer.state_dict()["param_groups"]})


def _encode(value: Any) -> Any:
    return to_numpy(value) if isinstance(value, torch.Tensor) else value


def _decode(value: Any) -> Any:
    return to_tensor(value) if isinstance(value, np.ndarray) else value
