"""How the parameters of K members lie in memory: one row per member in one flat tensor, each parameter a view of it.

With all parameters in one tensor of shape (K, P) an optimiser step is a handful of operations, and copying a member is
copying a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

ALIGNMENT = 16
"""Each parameter begins at a multiple of so many numbers, as vector instructions like it; the gaps stay zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """One parameter: its name in the network, its shape, and the columns that it fills."""

    name: str
    shape: torch.Size
    first: int
    size: int


class Layout:
    """The parameters of one architecture, in the order of ``network.parameters()``.

    Attributes:
        leaves: the parameters.
        width: P, the columns of a row, gaps included.
        aliases: for each parameter that the network names more than once, the other names -> the first one.
    """

    def __init__(self, network: nn.Module) -> None:
        leaves: list[Leaf] = []
        first = 0
        for name, parameter in network.named_parameters():
            leaves.append(Leaf(name=name, shape=parameter.shape, first=first, size=parameter.numel()))
            first += -(-parameter.numel() // ALIGNMENT) * ALIGNMENT
        self.leaves = tuple(leaves)
        self.width = first
        owner = {id(parameter): name for name, parameter in network.named_parameters()}
        every = network.named_parameters(remove_duplicate=False)
        self.aliases = {name: owner[id(parameter)] for name, parameter in every if owner[id(parameter)] != name}

    def views(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        """Each parameter of all members, shape (K, *shape), sharing memory with ``flat`` of shape (K, P)."""
        return {leaf.name: self.columns_of(flat, leaf).view(len(flat), *leaf.shape) for leaf in self.leaves}

    def columns_of(self, flat: torch.Tensor, leaf: Leaf) -> torch.Tensor:
        return flat[:, leaf.first : leaf.first + leaf.size]

    def one(self, row: torch.Tensor) -> dict[str, torch.Tensor]:
        """Each parameter of one member, sharing memory with ``row`` of shape (P,)."""
        return {leaf.name: row[leaf.first : leaf.first + leaf.size].view(leaf.shape) for leaf in self.leaves}

    def columns(self, device: torch.device) -> torch.Tensor:
        """For each column the index of its parameter (a gap counts to the one before it): int64, shape (P,)."""
        ends = [leaf.first for leaf in self.leaves[1:]] + [self.width]
        counts = [end - leaf.first for leaf, end in zip(self.leaves, ends, strict=True)]
        return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)).to(device)


def same_shapes(first: nn.Module, second: nn.Module) -> bool:
    """Whether both networks have parameters and buffers of the same names, shapes and types."""
    return _shapes(first) == _shapes(second)


def _shapes(network: nn.Module) -> Mapping[str, tuple[torch.Size, torch.dtype]]:
    every = [*network.named_parameters(remove_duplicate=False), *network.named_buffers(remove_duplicate=False)]
    return {name: (tensor.shape, tensor.dtype) for name, tensor in every}
