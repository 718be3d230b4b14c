"""How many members go through a step together: as many as the CPU's cache holds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch

from raytune_rl.population.packed.stack import Stack

CHUNK_BYTES = 2**22
"""Parameters, gradients and moments of about so many bytes are processed together on a CPU: they should stay in its
second-level cache from the forward pass to the optimiser's step."""

SPATIAL_CHUNK_BYTES = 2**24
"""The same for networks with spatial layers; here the layers' buffers count, too. It is more than the cache holds: with
smaller chunks the additional calls cost more time than the cache saves."""


class Chunks:
    """Divides the members of a hand-written stack into chunks of nearly equal size.

    Args:
        parameters: shape (K, P), of all members.
    """

    def __init__(self, stack: Stack, parameters: torch.Tensor) -> None:
        self._stack = stack
        self._members = len(parameters)
        self._on_cpu = parameters.device.type == "cpu"
        self._state_bytes = 4 * parameters[0].numel() * parameters.element_size()  # with gradient and two moments
        self._chunks: dict[torch.Size, Sequence[slice]] = {}

    def of(self, shape: torch.Size) -> Sequence[slice]:
        """The chunks for batches of ``shape`` (B, ...) per member."""
        if shape not in self._chunks:
            self._chunks[shape] = self._divide(shape)
        return self._chunks[shape]

    def _divide(self, shape: torch.Size) -> Sequence[slice]:
        member_bytes, chunk_bytes = self._state_bytes, CHUNK_BYTES
        if self._stack.spatial:
            member_bytes, chunk_bytes = member_bytes + self._stack.workspace_bytes(shape), SPATIAL_CHUNK_BYTES
        count = math.ceil(self._members / max(1, chunk_bytes // member_bytes)) if self._on_cpu else 1
        bounds = [round(self._members * chunk / count) for chunk in range(count + 1)]
        return [slice(first, last) for first, last in itertools.pairwise(bounds)]
