"""The weights of many models of one architecture, stacked in one tensor each: to select, concatenate and average them.

A ``PackedPopulation`` computes with its own tensors. These classes are for code that keeps models or makes new ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

Tensors: TypeAlias = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Parameters and buffers of n models.

    Attributes:
        parameters: shape (n, P), rows as in ``PackedPopulation.parameters``.
        buffers: running statistics and the like, by the network's names, shape (n, ...) each.
    """

    parameters: torch.Tensor
    buffers: Tensors

    @classmethod
    def stack(cls, weights: Sequence[Weights]) -> Weights:
        """Copies of the models in all of them, one after the other."""
        return cls(
            parameters=torch.cat([each.parameters for each in weights]),
            buffers={name: torch.cat([each.buffers[name] for each in weights]) for name in weights[0].buffers},
        )

    def __len__(self) -> int:
        """Number of models."""
        return len(self.parameters)

    def take(self, models: slice | torch.Tensor) -> Weights:
        return Weights(
            parameters=self.parameters[models],
            buffers={name: value[models] for name, value in self.buffers.items()},
        )

    def write(self, others: Weights) -> None:
        """Overwrite the n models with n others."""
        self.parameters.copy_(others.parameters)
        for name, value in self.buffers.items():
            value.copy_(others.buffers[name])

    def averages(self, shares: torch.Tensor) -> Weights:
        """A weighted sum of the models for each row of ``shares`` (m, n): m models.

        Running statistics are averaged like parameters; integer buffers (a count of batches) are taken from the model
        with the largest share. Models without any share are left out, so that a NaN in them does no harm."""
        used = torch.nonzero(shares.any(dim=0))[:, 0]
        models, used_shares = self.take(used), shares[:, used].to(self.parameters)

        def averaged(values: torch.Tensor) -> torch.Tensor:
            if not values.is_floating_point():
                return values[used_shares.argmax(dim=1)]
            sums: torch.Tensor = torch.tensordot(used_shares.to(values.dtype), values, dims=1)
            return sums

        return Weights(
            parameters=averaged(models.parameters),
            buffers={name: averaged(value) for name, value in models.buffers.items()},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Weights and optimiser state of all members, possibly each from a different step.

    Attributes:
        parameters, buffers: as in ``Weights``.
        optimizer: as in ``PackedOptimizer.buffers``.
    """

    parameters: torch.Tensor
    optimizer: list[torch.Tensor]
    buffers: Tensors

    @property
    def weights(self) -> Weights:
        return Weights(parameters=self.parameters, buffers=self.buffers)

    def tensors(self) -> list[torch.Tensor]:
        return [self.parameters, *self.optimizer, *self.buffers.values()]
