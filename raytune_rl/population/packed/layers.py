"""Torch's layers in the versions that packed members need: a dropout rate per member, and what ``vmap`` batches well.

A packed version is a subclass, and a layer becomes one in place. So it keeps its attributes, and networks that ask for
``self.gru.hidden_size`` or ``isinstance(layer, nn.Conv2d)`` get the answers that they know.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from raytune_rl.population.packed.convolution import pack_convolution, pack_max_pool
from raytune_rl.population.packed.recurrent import pack_gru

RATE = "packed_rate"
"""The name of the buffer that holds a dropout rate."""


class PackedDropout(nn.Dropout):
    """Dropout whose probability is a buffer (a scalar tensor), so that each member can have its own."""

    packed_rate: torch.Tensor

    @property
    def p(self) -> torch.Tensor:  # type: ignore[override]
        """A tensor, so that a network which uses the rate itself fails under ``vmap``, and does not take another
        member's."""
        return self.packed_rate

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return inputs
        kept = torch.rand_like(inputs) >= self.packed_rate
        return inputs * kept / (1.0 - self.packed_rate).clamp(min=1e-6)


class PackedEmbedding(nn.Embedding):
    """An embedding whose padding row gets no gradient in any member. (``vmap`` looks all members up in one table, where
    ``padding_idx`` is a row of the first member.)"""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        rows = functional.embedding(inputs, self.weight)
        padding = torch.eq(inputs, self.padding_idx or 0)
        return torch.where(padding.unsqueeze(-1), rows.detach(), rows)


def with_packed_layers(network: nn.Module, *, alone: bool = False, on_gpu: bool = False) -> nn.Module:
    """Make the layers of ``network`` for which there is a packed version that, in place: elementwise dropout (other
    kinds, which drop whole channels, stay as they are), embeddings with padding, GRUs, convolutions and max pooling.

    Args:
        alone: the network will not be batched with others: dropout only.
        on_gpu: GRUs even if ``alone``, because ``torch.func`` cannot differentiate cuDNN's.
    """
    for module in network.modules():
        if hooked(module):  # it does more than its class says
            continue
        if has_own_rate(module):
            _pack_dropout(module)
        if on_gpu or not alone:
            pack_gru(module)
        if not alone:
            pack_convolution(module)
            pack_max_pool(module)
            _pack_embedding(module)
    return network


def hooked(module: nn.Module) -> bool:
    """Whether calling the module does more than its ``forward``. (Pruning and torch's older weight and spectral
    normalisation are hooks, too; they keep the weights under other names.)"""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def has_own_rate(module: nn.Module) -> bool:
    """Whether each packed member can have its own rate of this dropout."""
    return type(module) is nn.Dropout and not hooked(module)


def _pack_dropout(module: nn.Module) -> None:
    assert isinstance(module, nn.Dropout)
    rate = float(module.p)
    del module.p  # an attribute of the instance, which would hide the property
    module.__class__ = PackedDropout
    module.register_buffer(RATE, torch.tensor(rate))


def _pack_embedding(module: nn.Module) -> None:
    if (
        type(module) is nn.Embedding
        and module.padding_idx is not None
        and module.max_norm is None
        and not module.sparse
        and not module.scale_grad_by_freq
    ):
        module.__class__ = PackedEmbedding
