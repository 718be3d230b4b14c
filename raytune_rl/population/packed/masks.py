"""Dropout masks for the hand-written passes, with a rate per member.

``OwnMasks`` draws each member's masks from the stream of its own seed and step, fresh for every step. ``BulkMasks``
draws one pool of mask entries per member and dropout layer, and takes a window of it, at a random place, for each
step; after ``POOL_STEPS`` steps the pool is drawn anew. The entries of one mask are independent of each other as they
should be; those of different steps are shifted copies in part, which no training notices, at a tenth of the cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from raytune_rl.population.randomness import TRAIN

POOL_STEPS = 16
POOL_MASKS = 4
"""So many masks fit into a pool."""

Site = tuple[int, int]
"""Features and batch size of a dropout layer."""


class Masks(Protocol):
    def begin(self, rates: torch.Tensor, sites: Sequence[Site], names: Sequence[tuple[int, int]]) -> None:
        """Get ready for a segment.

        Args:
            rates: shape (members, sites), double precision.
            sites: of each dropout layer.
            names: seed and step of each member.
        """
        ...

    def draw(self) -> list[torch.Tensor | None]:
        """For each layer the mask of the next step, shape (members, features, B); ``None`` where no member drops."""
        ...


class OwnMasks:
    def __init__(self, like: torch.Tensor) -> None:
        self._like = like

    def begin(self, rates: torch.Tensor, sites: Sequence[Site], names: Sequence[tuple[int, int]]) -> None:
        self._device_wide = self._like.device.type != "cpu"
        seeds = [generator_seed(TRAIN, seed, step) for seed, step in names]
        if self._device_wide:  # one draw for all: a launch per member would cost more than the step
            device_seed = generator_seed(TRAIN, *(number for name in names for number in name))
            self._generators = [torch.Generator(self._like.device).manual_seed(device_seed)]
        else:
            self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._active = [column for column in range(len(sites)) if bool((rates[:, column] > 0).any())]
        self._dropping = [torch.nonzero(rates[:, column] > 0).flatten().tolist() for column in range(len(sites))]
        self._rates = [rates[:, column].to(self._like)[:, None, None] for column in range(len(sites))]
        self._scales = [scale(rates[:, column]).to(self._like)[:, None, None] for column in range(len(sites))]
        self._masks = [self._like.new_zeros(len(rates), *site) if index in self._active else None for index, site in enumerate(sites)]

    def draw(self) -> list[torch.Tensor | None]:
        for index in self._active:
            mask = self._masks[index]
            assert mask is not None
            if self._device_wide:
                mask.uniform_(generator=self._generators[0])
            else:
                for member in self._dropping[index]:
                    mask[member].uniform_(generator=self._generators[member])
            mask.ge_(self._rates[index]).mul_(self._scales[index])
            # members that do not drop are never drawn: 1 >= 0 stays 1
        return self._masks


class BulkMasks:
    def __init__(self, like: torch.Tensor, seed: int) -> None:
        self._like = like
        self._generator = torch.Generator(like.device).manual_seed(seed)
        self._places = np.random.default_rng(seed)

    def begin(self, rates: torch.Tensor, sites: Sequence[Site], names: Sequence[tuple[int, int]]) -> None:
        self._rates, self._sites = rates, list(sites)
        self._step = 0

    def draw(self) -> list[torch.Tensor | None]:
        if self._step % POOL_STEPS == 0:
            self._pools = self._draw_pools()
        self._step += 1
        return [
            None
            if pool is None
            else pool[:, (at := int(place * (pool.shape[1] - features * batch))) : at + features * batch].view(
                len(pool), features, batch
            )
            for pool, (features, batch), place in zip(
                self._pools, self._sites, self._places.random(len(self._sites)), strict=True
            )
        ]

    def _draw_pools(self) -> list[torch.Tensor | None]:
        pools: list[torch.Tensor | None] = []
        for column, (features, batch) in enumerate(self._sites):
            rates = self._rates[:, column]
            if not bool((rates > 0).any()):
                pools.append(None)
                continue
            pool = self._like.new_empty(len(rates), POOL_MASKS * features * batch).uniform_(generator=self._generator)
            pools.append(pool.ge_(rates.to(pool)[:, None]).mul_(scale(rates).to(pool)[:, None]))
        return pools


def scale(rates: torch.Tensor) -> torch.Tensor:
    """What survives dropout is multiplied by; 0 where nothing does."""
    return torch.where(rates < 1, 1 / (1 - rates).clamp(min=1e-12), 0.0)


def generator_seed(*name: int) -> int:
    """One number for a generator out of the name of a stream."""
    return int(np.random.SeedSequence(name).generate_state(1, np.uint64)[0] >> 1)
