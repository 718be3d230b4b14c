"""Index arithmetic of convolution and pooling windows. Tensors have the batch as last dimension: (..., *space, B).

A kernel *tap* is one element of the kernel, at one offset from the window's corner. The 3x3 kernel has nine taps.
"""

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
    """Kernel size, stride, dilation and padding, one number per spatial dimension.

    It is one object because ``torch.func`` traverses tuples among a function's arguments on every call, but leaves
    objects alone.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[int, ...]

    @property
    def spatial_dims(self) -> int:
        return len(self.kernel)

    @property
    def taps(self) -> int:
        """Number of kernel taps."""
        return math.prod(self.kernel)

    def padded_shape(self, shape: Sequence[int]) -> torch.Size:
        """The shape of an input of ``shape`` after padding."""
        first = -self.spatial_dims - 1
        sizes = [size + 2 * edge for size, edge in zip(shape[first:-1], self.padding, strict=True)]
        return torch.Size([*shape[:first], *sizes, shape[-1]])

    def interior(self, shape: Sequence[int]) -> Index:
        """The index, into a padded tensor, of the unpadded input of ``shape``."""
        sizes = zip(shape[-self.spatial_dims - 1 : -1], self.padding, strict=True)
        return (..., *(slice(edge, edge + size) for size, edge in sizes), slice(None))

    def output_sizes(self, sizes: Sequence[int]) -> list[int]:
        """Spatial sizes of the output for padded inputs of these spatial sizes.

        Raises:
            ValueError: the kernel is larger than the input.
        """
        outputs = [
            (size - dilation * (width - 1) - 1) // stride + 1
            for size, width, stride, dilation in zip(sizes, self.kernel, self.stride, self.dilation, strict=True)
        ]
        if min(outputs) < 1:
            raise ValueError(f"a kernel of {self.kernel} has no room in inputs of {tuple(sizes)}")
        return outputs

    def unfolded(self, padded: torch.Tensor) -> torch.Tensor:
        """All windows of padded inputs, as a view: (..., *kernel, *output sizes, B)."""
        first = -self.spatial_dims - 1
        strides = padded.stride()
        between_taps = zip(strides[first:-1], self.dilation, strict=True)
        between_outputs = zip(strides[first:-1], self.stride, strict=True)
        return padded.as_strided(
            (*padded.shape[:first], *self.kernel, *self.output_sizes(padded.shape[first:-1]), padded.shape[-1]),
            (*strides[:first], *(step * by for step, by in (*between_taps, *between_outputs)), strides[-1]),
        )

    def im2col(self, inputs: torch.Tensor) -> torch.Tensor:
        """All windows of inputs that are not padded yet, in new memory: (..., taps, *output sizes, B)."""
        shape = self.padded_shape(inputs.shape)
        padded = inputs if shape == inputs.shape else inputs.new_zeros(shape)
        if padded is not inputs:
            padded[self.interior(inputs.shape)] = inputs
        windows = self.unfolded(padded)
        # the only copy
        return windows.reshape(*shape[: -self.spatial_dims - 1], self.taps, *windows.shape[-self.spatial_dims - 1 :])

    def tap_slices(self, sizes: Sequence[int]) -> list[tuple[Index, Index]]:
        """For each kernel tap, in order: the elements of an unpadded input (of these spatial sizes) that it meets, and
        the output positions at which it meets them. Both indices select the same shape."""
        outputs = self.output_sizes([size + 2 * edge for size, edge in zip(sizes, self.padding, strict=True)])
        axes = []
        for axis, (size, count) in enumerate(zip(sizes, outputs, strict=True)):
            stride, dilation, edge = self.stride[axis], self.dilation[axis], self.padding[axis]
            axes.append([_tap_slice(k * dilation - edge, stride, size, count) for k in range(self.kernel[axis])])
        slices = []
        for tap in itertools.product(*axes):
            inside, positions = zip(*tap, strict=True)
            slices.append(((..., *inside, slice(None)), (..., *positions, slice(None))))
        return slices


def _tap_slice(offset: int, stride: int, size: int, count: int) -> tuple[slice, slice]:
    """``tap_slices`` along one dimension: output position p of ``count`` meets input ``offset + stride * p``; only
    those inside 0 to ``size`` are selected."""
    first = max(0, -(offset // stride))
    last = min(count, (size - 1 - offset) // stride + 1)
    if first >= last:
        return slice(0, 0), slice(0, 0)
    begin = offset + stride * first
    return slice(begin, begin + stride * (last - first - 1) + 1, stride), slice(first, last)
