"""Mixed precision of a torch member: torch's autocast, and its loss scaling for float16, whose range is narrow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from raytune_rl.population.optimisers import Optimizer

if TYPE_CHECKING:
    from raytune_rl.population.torch_task import Precision

_TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class MixedPrecision:
    """What a training step needs to run in ``precision``; has no effect for ``float32``."""

    def __init__(self, precision: Precision, device: torch.device) -> None:
        self._type = _TYPES.get(precision)
        self._device = device.type
        # Any, since it is typed for torch's optimisers only, but works with LeanOptimizer as well
        self._scaler: Any = torch.amp.GradScaler(self._device, enabled=precision == "float16")

    def autocast(self) -> torch.autocast:
        """The context for the forward pass and the loss."""
        return torch.autocast(self._device, dtype=self._type, enabled=self._type is not None)

    def backward(self, loss: torch.Tensor, optimizer: Optimizer) -> None:
        """Compute the gradients of ``loss``, unscaled."""
        self._scaler.scale(loss).backward()
        self._scaler.unscale_(optimizer)

    def step(self, optimizer: Optimizer) -> None:
        """Make the optimiser's step, unless a scaled gradient has overflowed."""
        self._scaler.step(optimizer)
        self._scaler.update()

    def get_state(self) -> dict[str, Any]:
        """The loss scale, for snapshots; empty if losses are not scaled."""
        state: dict[str, Any] = self._scaler.state_dict()
        return state

    def set_state(self, state: Mapping[str, Any]) -> None:
        if state and self._scaler.is_enabled():
            self._scaler.load_state_dict(dict(state))
