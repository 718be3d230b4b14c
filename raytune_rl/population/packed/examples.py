"""Batches of all members of a pack, drawn as each member alone would draw them, but fetched in one go."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from raytune_rl.population.augmenting import Augmenter
from raytune_rl.population.splits import Batches

BLOCK = 2**20
"""About so many indices are drawn ahead at once."""


class Examples:
    """The next ``steps`` batches of each member.

    Args:
        batches: the members' own streams; they are moved on.
        sizes: examples per batch, by member.
        augmenters: what changes the batches of each member, if anything does.
        steps: how many batches will be taken.
    """

    def __init__(
        self,
        batches: Sequence[Batches],
        sizes: Sequence[int],
        augmenters: Sequence[Augmenter | None],
        steps: int,
    ) -> None:
        self._batches = batches
        self._sizes = sizes
        self._augmenters = [(row, found) for row, found in enumerate(augmenters) if found is not None]
        self._left = steps
        self._wide = max(sizes)
        self._block: torch.Tensor = torch.empty(0, dtype=torch.int64)
        self._next = 0
        self._weights: torch.Tensor | None = None

    def take(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Inputs (K, B, ...), targets (K, B, ...) and the weights of the examples, shape (K, B); ``None`` where all
        batches are of one size. B is the largest size, smaller ones are filled up with what weighs nothing."""
        if self._next == len(self._block):
            self._draw()
        rows = self._block[self._next]
        self._next += 1
        inputs, targets = self._batches[0].rows(rows)
        for row, augmenter in self._augmenters:
            # Without the filling, so that random numbers and statistics of the batch are those that the member has
            # alone; a copy, for what comes back may be a view of what is given.
            own = inputs[row, : self._sizes[row]]
            own.copy_(augmenter(own.clone()))
        if self._weights is None and min(self._sizes) < self._wide:
            place = torch.arange(self._wide).unsqueeze(0)
            sizes = torch.tensor(self._sizes).unsqueeze(1)
            self._weights = ((place < sizes) / sizes).to(inputs.device)
        return inputs, targets, self._weights

    def _draw(self) -> None:
        """Indices of the next steps, shape (steps, K, B)."""
        steps = min(self._left, max(1, BLOCK // (self._wide * len(self._sizes))))
        self._left -= steps
        columns = []
        for batches, size in zip(self._batches, self._sizes, strict=True):
            drawn = batches.indices(size * steps).view(steps, size)
            fill = drawn[:, :1].expand(steps, self._wide - size)
            columns.append(drawn if size == self._wide else torch.cat([drawn, fill], dim=1))
        self._block, self._next = torch.stack(columns, dim=1), 0
