"""What many models of one architecture are made of, each tensor of all of them in one: taken apart, stacked, averaged.

A population computes with its own; these are for whoever keeps such models, or makes new ones of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

Tensors: TypeAlias = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """All that n models of one architecture compute with.

    Attributes:
        parameters: shape (n, P), rows as in ``PackedPopulation.parameters``.
        buffers: running statistics and the like, by the names of the network, shape (n, ...) each.
    """

    parameters: torch.Tensor
    buffers: Tensors

    @classmethod
    def stack(cls, parts: Sequence[Weights]) -> Weights:
        """The models of several, one after the other; copies."""
        return cls(
            parameters=torch.cat([part.parameters for part in parts]),
            buffers={name: torch.cat([part.buffers[name] for part in parts]) for name in parts[0].buffers},
        )

    def __len__(self) -> int:
        """Models."""
        return len(self.parameters)

    def take(self, models: slice | torch.Tensor) -> Weights:
        return Weights(
            parameters=self.parameters[models],
            buffers={name: value[models] for name, value in self.buffers.items()},
        )

    def write(self, others: Weights) -> None:
        """Become those of as many other models, in place."""
        self.parameters.copy_(others.parameters)
        for name, value in self.buffers.items():
            value.copy_(others.buffers[name])

    def averages(self, shares: torch.Tensor) -> Weights:
        """One model for each row of ``shares`` (m, n), the weighted sum of these: running statistics are averaged like
        parameters, and what is no float (a count of batches) is that of the largest share. Models that have a share in
        none of them have no part in it, whatever they hold (NaN included)."""
        used = torch.nonzero(shares.any(dim=0))[:, 0]
        few, mix = self.take(used), shares[:, used].to(self.parameters)

        def averaged(values: torch.Tensor) -> torch.Tensor:
            if not values.is_floating_point():
                return values[mix.argmax(dim=1)]
            sums: torch.Tensor = torch.tensordot(mix.to(values.dtype), values, dims=1)
            return sums

        return Weights(
            parameters=averaged(few.parameters),
            buffers={name: averaged(value) for name, value in few.buffers.items()},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Weights and optimiser state of all members at some time, which may be another one for each of them."""

    parameters: torch.Tensor
    optimizer: list[torch.Tensor]
    buffers: Tensors

    @property
    def weights(self) -> Weights:
        return Weights(parameters=self.parameters, buffers=self.buffers)

    def tensors(self) -> list[torch.Tensor]:
        return [self.parameters, *self.optimizer, *self.buffers.values()]
