"""How the gradients of all members come about: the small interface behind which the two ways to compute them stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from raytune_rl.population.packed.settings import Settings


class Engine(Protocol):
    """Computes losses and gradients of some members at a time.

    Attributes:
        sites: dropout layers.
    """

    @property
    def sites(self) -> int: ...

    def parts(self, rows: slice, settings: Settings) -> list[slice]:
        """Those members in parts that ``begin`` can take: small enough for the caches."""
        ...

    def begin(
        self,
        rows: slice,
        parameters: torch.Tensor,
        gradient: torch.Tensor,
        settings: Settings,
        names: Sequence[tuple[int, int]],
        batch: int,
    ) -> None:
        """Get ready for a segment.

        Args:
            rows: the members.
            parameters, gradient: theirs, shape (members, P); the gradient is filled by each call of ``gradient``.
            names: seed and step of each, for their random numbers.
            batch: largest batch size among them.
        """
        ...

    def gradient(self, inputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
        """Fill the gradient; the losses, shape (members,).

        Args:
            inputs, targets: shape (members, B, ...).
            weights: of the examples, shape (members, B): 1 / batch size, or 0 for padding; ``None``: all 1 / B.
        """
        ...

    def outputs(self, rows: slice, parameters: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        """In evaluation mode for inputs (N, ...) that all members share: shape (members, N, ...)."""
        ...
