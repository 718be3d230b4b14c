"""Layers that members of a pack have in place of torch's own: with settings per member, or with a batching rule."""

from __future__ import annotations

import torch
from torch import nn

from raytune_rl.population.packed.convolution import PackedConvolution, PackedMaxPool
from raytune_rl.population.packed.recurrent import PackedGRU

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


def with_packed_layers(network: nn.Module, *, alone: bool = False, on_gpu: bool = False) -> nn.Module:
    """``network`` with what packs better as another layer replaced, in place: elementwise dropout (others, which drop
    whole channels, stay as they are), recurrent units, convolutions and maxima. Parameters keep their names.

    Args:
        alone: nothing is to be batched: dropout only.
        on_gpu: recurrent units also then: ``torch.func`` cannot differentiate cuDNN's.
    """
    packed: dict[int, nn.Module] = {}  # a layer that is used twice stays one layer
    for module in list(network.modules()):
        for name, child in module._modules.items():  # named_children() leaves out what comes a second time
            if child is not None and (found := packed.get(id(child)) or _packed(child, alone, on_gpu)) is not None:
                packed[id(child)] = found
                setattr(module, name, found)
    return network


def hooked(module: nn.Module) -> bool:
    """Whether calling the module does more than its ``forward``. (Older weight and spectral norms, and pruning, are
    hooks, too, and keep their weights under other names.)"""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _packed(module: nn.Module, alone: bool, on_gpu: bool) -> nn.Module | None:
    """What takes the place of ``module``; ``None`` where it can stay, as what has hooks must: they would be lost."""
    if hooked(module):
        return None
    if type(module) is nn.Dropout:
        return PackedDropout(module.p)
    if (on_gpu or not alone) and PackedGRU.fits(module) and isinstance(module, nn.GRU):
        return PackedGRU(module)
    if alone:
        return None
    if PackedConvolution.fits(module) and isinstance(module, nn.Conv1d | nn.Conv2d):
        return PackedConvolution(module)
    if PackedMaxPool.fits(module) and isinstance(module, nn.MaxPool1d | nn.MaxPool2d):
        return PackedMaxPool(module)
    return None
