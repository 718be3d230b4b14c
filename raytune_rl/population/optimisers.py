"""Optimisers by name, and their inner state as numpy arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch.optim.adam import adam
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

OptimizerName: TypeAlias = Literal["adam", "adamw", "sgd"]
OptimizerFactory: TypeAlias = Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer]
"""Makes an optimiser for the given parameters. Its groups' settings are changed by torch's own keys: ``lr``,
``weight_decay`` and ``momentum`` or ``betas``."""

NAMES: tuple[OptimizerName, ...] = ("adam", "adamw", "sgd")


class LeanOptimizer:
    """Torch's Adam (fused), AdamW (fused) or SGD, by torch's functions without its ``Optimizer`` class.

    ``torch.optim.Optimizer`` imports torch's compiler at its first step, which costs 1.5 s of CPU and 66 MB in each
    trial, and sends every call through it. The functions avoid both and give the same numbers, bit for bit. This class
    has the attributes and methods of an optimiser that this package and ``GradScaler`` use, under the same names;
    ``GradScaler`` sets ``grad_scale`` and ``found_inf``.

    Args:
        kind: which of the three.
        parameters: those to train, in one group.
        settings: of that group, by torch's keys: ``lr``, ``weight_decay``, and ``betas`` or ``momentum``.
    """

    grad_scale: torch.Tensor | None = None
    found_inf: torch.Tensor | None = None

    def __init__(self, kind: OptimizerName, parameters: Iterable[torch.nn.Parameter], **settings: Any) -> None:
        self.param_groups: list[dict[str, Any]] = [{"params": list(parameters), **settings}]
        self.state: dict[torch.Tensor, dict[str, Any]] = {}
        self._kind = kind
        self._step_supports_amp_scaling = kind != "sgd"

    def zero_grad(self, set_to_none: bool = True) -> None:
        for parameter in self.param_groups[0]["params"]:
            if set_to_none:
                parameter.grad = None
            elif parameter.grad is not None:
                parameter.grad.zero_()

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        group = self.param_groups[0]
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        if self._kind == "sgd":
            self._step_sgd(group, parameters)
        else:
            self._step_adam(group, parameters)

    def state_dict(self) -> dict[str, Any]:
        numbers = {parameter: index for index, parameter in enumerate(self.param_groups[0]["params"])}
        settings = {key: value for key, value in self.param_groups[0].items() if key != "params"}
        return {
            "state": {numbers[parameter]: slots for parameter, slots in self.state.items()},
            "param_groups": [{**settings, "params": list(numbers.values())}],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore moments and step counts (on each parameter's device), and the settings of the group."""
        parameters = self.param_groups[0]["params"]
        self.state = {
            parameters[index]: {
                key: value.to(parameters[index].device) if isinstance(value, torch.Tensor) else value
                for key, value in slots.items()
            }
            for index, slots in state["state"].items()
        }
        self.param_groups = [{**state["param_groups"][0], "params": parameters}]

    def _step_adam(self, group: Mapping[str, Any], parameters: list[torch.nn.Parameter]) -> None:
        for parameter in parameters:
            if parameter not in self.state:
                self.state[parameter] = {
                    "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                    "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                }
        states = [self.state[parameter] for parameter in parameters]
        update = adamw if self._kind == "adamw" else adam
        update(
            list[torch.Tensor](parameters),
            [parameter.grad for parameter in parameters if parameter.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,  # one kernel for all parameters: small networks are bound by the number of calls
            grad_scale=self.grad_scale,
            found_inf=self.found_inf,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=1e-8,
            maximize=False,
        )

    def _step_sgd(self, group: Mapping[str, Any], parameters: list[torch.nn.Parameter]) -> None:
        buffers = [self.state.get(parameter, {}).get("momentum_buffer") for parameter in parameters]
        sgd(
            list[torch.Tensor](parameters),
            [parameter.grad for parameter in parameters if parameter.grad is not None],
            buffers,
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            lr=group["lr"],
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
        if group["momentum"] != 0:
            self.state |= {p: {"momentum_buffer": b} for p, b in zip(parameters, buffers, strict=True)}


Optimizer: TypeAlias = torch.optim.Optimizer | LeanOptimizer


def make_optimizer(
    kind: OptimizerName | OptimizerFactory,
    parameters: Iterable[torch.nn.Parameter],
    *,
    learning_rate: float,
    weight_decay: float,
    momentum: float,
) -> Optimizer:
    """A new optimiser. ``momentum`` is SGD's momentum, or the first beta of Adam and AdamW. A factory makes its
    optimiser with settings of its own; ours are not used."""
    if not isinstance(kind, str):
        return kind(parameters)
    momentum_setting = {"momentum": momentum} if kind == "sgd" else {"betas": (momentum, 0.999)}
    return LeanOptimizer(kind, parameters, lr=learning_rate, weight_decay=weight_decay, **momentum_setting)


def set_momentum(group: dict[str, Any], value: float) -> None:
    if "betas" in group:
        group["betas"] = (value, *group["betas"][1:])
    else:
        group["momentum"] = value


def get_momentum(group: Mapping[str, Any]) -> float:
    return float(group["betas"][0] if "betas" in group else group["momentum"])


def to_numpy(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """A copy on the CPU. numpy has no bfloat16, so its bits are stored as uint16."""
    copied = tensor.detach().to("cpu", copy=True)
    return (copied.view(torch.uint16) if copied.dtype == torch.bfloat16 else copied).numpy()


def to_tensor(array: np.ndarray[Any, Any]) -> torch.Tensor:
    """The inverse of ``to_numpy``; a copy on the CPU."""
    copied = torch.tensor(array)
    return copied.view(torch.bfloat16) if copied.dtype == torch.uint16 else copied


def optimizer_state(optimizer: Optimizer) -> dict[int, dict[str, Any]]:
    """Moments and step counts by the index of their parameter. Settings are left out: they are hyperparameters."""
    state = optimizer.state_dict()["state"]
    return {index: {key: _encode(value) for key, value in slots.items()} for index, slots in state.items()}


def load_optimizer_state(optimizer: Optimizer, state: Mapping[int, Mapping[str, Any]]) -> None:
    decoded = {index: {key: _decode(value) for key, value in slots.items()} for index, slots in state.items()}
    optimizer.load_state_dict({"state": decoded, "param_groups": optimizer.state_dict()["param_groups"]})


def _encode(value: Any) -> Any:
    return to_numpy(value) if isinstance(value, torch.Tensor) else value


def _decode(value: Any) -> Any:
    return to_tensor(value) if isinstance(value, np.ndarray) else value
