"""Layers that take settings per member: they read them from buffers, which are stacked like parameters."""

from __future__ import annotations

import torch
from torch import nn

RATE = "packed_rate"


class PackedDropout(nn.Module):
    """Dropout whose probability is a buffer (a scalar tensor), so that each member can have its own."""

    packed_rate: torch.Tensor

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.register_buffer(RATE, torch.tensor(float(rate)))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return inputs
        kept = torch.rand_like(inputs) >= self.packed_rate
        return inputs * kept / (1.0 - self.packed_rate).clamp(min=1e-6)


def with_packed_dropout(network: nn.Module) -> nn.Module:
    """``network`` with every elementwise dropout replaced, in place. Others (whole channels) stay as they are."""
    packed: dict[int, PackedDropout] = {}  # a layer that is used twice stays one layer
    for module in list(network.modules()):
        for name, child in module._modules.items():  # named_children() leaves out what comes a second time
            if type(child) is nn.Dropout:
                setattr(module, name, packed.setdefault(id(child), PackedDropout(child.p)))
    return network
