"""Where the kernel of a convolution stands. Tensors have their examples at the end: (..., *space, B)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

Index: TypeAlias = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Geometry:
    """A number for each dimension of space. ``torch.func`` looks into tuples that a function is given, over and over;
    into this it does not."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[int, ...]

    @property
    def space(self) -> int:
        return len(self.kernel)

    @property
    def places(self) -> int:
        """How many places the kernel has."""
        return math.prod(self.kernel)

    def padded(self, shape: Sequence[int]) -> torch.Size:
        """The shape with the edges that are added."""
        first = -self.space - 1
        sizes = [size + 2 * edge for size, edge in zip(shape[first:-1], self.padding, strict=True)]
        return torch.Size([*shape[:first], *sizes, shape[-1]])

    def interior(self, shape: Sequence[int]) -> Index:
        """Where what had this ``shape`` stands in what ``padded`` gives."""
        sizes = zip(shape[-self.space - 1 : -1], self.padding, strict=True)
        return (..., *(slice(edge, edge + size) for size, edge in sizes), slice(None))

    def counts(self, sizes: Sequence[int]) -> list[int]:
        """How many places the kernel stands at in padded inputs of these sizes.

        Raises:
            ValueError: there is no room for it.
        """
        found = [
            (size - spread * (width - 1) - 1) // step + 1
            for size, width, step, spread in zip(sizes, self.kernel, self.stride, self.dilation, strict=True)
        ]
        if min(found) < 1:
            raise ValueError(f"a kernel of {self.kernel} has no room in inputs of {tuple(sizes)}")
        return found

    def seen(self, inputs: torch.Tensor) -> torch.Tensor:
        """What each place of the kernel sees of padded inputs, (..., *kernel, *space, B): a view."""
        first = -self.space - 1
        steps = inputs.stride()
        between = zip(steps[first:-1], self.dilation, strict=True)
        onward = zip(steps[first:-1], self.stride, strict=True)
        return inputs.as_strided(
            (*inputs.shape[:first], *self.kernel, *self.counts(inputs.shape[first:-1]), inputs.shape[-1]),
            (*steps[:first], *(step * by for step, by in (*between, *onward)), steps[-1]),
        )

    def columns(self, inputs: torch.Tensor) -> torch.Tensor:
        """The same of inputs that are yet to be padded, as new memory (..., places, *space, B)."""
        shape = self.padded(inputs.shape)
        padded = inputs if shape == inputs.shape else inputs.new_zeros(shape)
        if padded is not inputs:
            padded[self.interior(inputs.shape)] = inputs
        seen = self.seen(padded)
        # the only copy
        return seen.reshape(*shape[: -self.space - 1], self.places, *seen.shape[-self.space - 1 :])

    def windows(self, sizes: Sequence[int]) -> list[tuple[Index, Index]]:
        """For each place of the kernel, in order: where in inputs of these sizes, without edges, it stands, and which
        of its positions these are."""
        counts = self.counts([size + 2 * edge for size, edge in zip(sizes, self.padding, strict=True)])
        axes = []
        for axis, (size, count) in enumerate(zip(sizes, counts, strict=True)):
            step, spread, edge = self.stride[axis], self.dilation[axis], self.padding[axis]
            axes.append([_window(k * spread - edge, step, size, count) for k in range(self.kernel[axis])])
        found = []
        for window in itertools.product(*axes):
            inside, positions = zip(*window, strict=True)
            found.append(((..., *inside, slice(None)), (..., *positions, slice(None))))
        return found


def _window(offset: int, step: int, size: int, count: int) -> tuple[slice, slice]:
    """Along one dimension: positions 0 to ``count`` stand at ``offset + step * position``; those within ``size``."""
    first = max(0, -(offset // step))
    last = min(count, (size - 1 - offset) // step + 1)
    if first >= last:
        return slice(0, 0), slice(0, 0)
    begin = offset + step * first
    return slice(begin, begin + step * (last - first - 1) + 1, step), slice(first, last)
