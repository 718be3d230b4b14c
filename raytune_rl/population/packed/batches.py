"""Batches for all members of a pack: the examples that each member would draw alone, fetched at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from raytune_rl.population.augmenting import Augmenter
from raytune_rl.population.splits import Batches

INDICES_PER_BLOCK = 2**20
"""About so many indices are drawn ahead at once."""


class PackedBatches:
    """The next ``steps`` batches of each member.

    Args:
        batches: the members' own streams, which are advanced.
        sizes: batch size of each member.
        augmenters: augmentation of each member's batches, ``None`` = none.
        steps: how many batches will be taken.
        dtype: of the weights: the network's, so that they are as exact.
    """

    def __init__(
        self,
        batches: Sequence[Batches],
        sizes: Sequence[int],
        augmenters: Sequence[Augmenter | None],
        steps: int,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._batches = batches
        self._sizes = sizes
        self._augmenters = [(row, augmenter) for row, augmenter in enumerate(augmenters) if augmenter is not None]
        self._steps_left = steps
        self._dtype = dtype
        self._largest = max(sizes)
        self._block: torch.Tensor = torch.empty(0, dtype=torch.int64)
        self._next = 0
        self._weights: torch.Tensor | None = None

    def take(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Inputs (K, B, ...), targets (K, B, ...) and weights of the examples (K, B), ``None`` if all batches have the
        same size. B is the largest size; smaller batches are padded with examples of weight zero."""
        if self._next == len(self._block):
            self._draw()
        indices = self._block[self._next]
        self._next += 1
        inputs, targets = self._batches[0].rows(indices)
        for row, augmenter in self._augmenters:
            # Without the padding, so that random numbers and batch statistics are those that the member would have
            # alone. From a clone, because the augmenter may return a view of its argument.
            unpadded = inputs[row, : self._sizes[row]]
            unpadded.copy_(augmenter(unpadded.clone()))
        if self._weights is None and min(self._sizes) < self._largest:
            position = torch.arange(self._largest).unsqueeze(0)
            sizes = torch.tensor(self._sizes).unsqueeze(1)
            self._weights = ((position < sizes).to(self._dtype) / sizes).to(inputs.device)
        return inputs, targets, self._weights

    def _draw(self) -> None:
        """Draw the indices of the next steps, shape (steps, K, B)."""
        steps = min(self._steps_left, max(1, INDICES_PER_BLOCK // (self._largest * len(self._sizes))))
        self._steps_left -= steps
        of_members = []
        for batches, size in zip(self._batches, self._sizes, strict=True):
            indices = batches.indices(size * steps).view(steps, size)
            padding = indices[:, :1].expand(steps, self._largest - size)
            of_members.append(indices if size == self._largest else torch.cat([indices, padding], dim=1))
        self._block, self._next = torch.stack(of_members, dim=1), 0
