"""Modules that take the place of torch's own in packed members: dropout with a rate per member, and layers that
``vmap`` can batch."""

from __future__ import annotations

import torch
from torch import nn

from raytune_rl.population.packed.convolution import PackedConvolution, PackedMaxPool
from raytune_rl.population.packed.recurrent import PackedGRU

RATE = "packed_rate"
"""The name of the buffer that holds a dropout rate."""


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
    """Replace, in place, the layers of ``network`` for which there is a packed one: elementwise dropout (other kinds,
    which drop whole channels, stay as they are), GRUs, convolutions and max pooling. Parameters keep their names.

    Args:
        alone: the network will not be batched with others: replace dropout only.
        on_gpu: replace GRUs even if ``alone``, because ``torch.func`` cannot differentiate cuDNN's.
    """
    replacements: dict[int, nn.Module] = {}  # by id: a layer that is used twice stays one layer
    for module in list(network.modules()):
        for name, child in module._modules.items():  # named_children() skips repeated modules
            if child is None:
                continue
            replacement = replacements.get(id(child)) or _replacement(child, alone, on_gpu)
            if replacement is not None:
                replacements[id(child)] = replacement
                setattr(module, name, replacement)
    return network


def hooked(module: nn.Module) -> bool:
    """Whether calling the module does more than its ``forward``. (Pruning and torch's older weight and spectral
    normalisation are hooks, too; they keep the weights under other names.)"""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _replacement(module: nn.Module, alone: bool, on_gpu: bool) -> nn.Module | None:
    """The packed version of ``module``; ``None`` if it stays as it is. Modules with hooks have to stay, since the hooks
    would be lost."""
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
