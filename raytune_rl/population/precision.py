"""Mixed precision of a torch member: torch's own autocast, and its loss scaling where the type is too narrow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from raytune_rl.population.optimisers import Optimizer

if TYPE_CHECKING:
    from raytune_rl.population.torch_task import Precision

_TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class MixedPrecision:
    """What a training step needs to run in ``precision``; for ``float32`` all of it does nothing."""

    def __init__(self, precision: Precision, device: torch.device) -> None:
        self._type = _TYPES.get(precision)
        self._device = device.type
        # It is typed for torch's own optimisers, and takes whatever has what it uses of them.
        self._scaler: Any = torch.amp.GradScaler(self._device, enabled=precision == "float16")

    def autocast(self) -> torch.autocast:
        """For the forward pass and the loss."""
        return torch.autocast(self._device, dtype=self._type, enabled=self._type is not None)

    def backward(self, loss: torch.Tensor, optimizer: Optimizer) -> None:
        """Gradients of ``loss`` in their true size."""
        self._scaler.scale(loss).backward()
        self._scaler.unscale_(optimizer)

    def step(self, optimizer: Optimizer) -> None:
        """The optimiser's step, left out where a scaled gradient has overflowed."""
        self._scaler.step(optimizer)
        self._scaler.update()

    def get_state(self) -> dict[str, Any]:
        """The scale, for snapshots; empty where nothing is scaled."""
        state: dict[str, Any] = self._scaler.state_dict()
        return state

    def set_state(self, state: Mapping[str, Any]) -> None:
        if state and self._scaler.is_enabled():
            self._scaler.load_state_dict(dict(state))
