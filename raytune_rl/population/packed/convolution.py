"""Small convolutions and maxima, batched over members: what ``vmap`` makes of torch's own (grouped ones) is slow."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class PackedConvolution(nn.Module):
    """Does what an ``nn.Conv1d`` or ``nn.Conv2d`` does, with the same parameters.

    Args:
        layer: see ``fits``; its parameters are taken over.
    """

    def __init__(self, layer: nn.Conv1d | nn.Conv2d) -> None:
        super().__init__()
        self.weight = layer.weight
        self.bias = layer.bias
        assert not isinstance(layer.padding, str)
        self._geometry = _Geometry(layer.kernel_size, layer.stride, layer.dilation, layer.padding)

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Whether all inputs go to all outputs and the edge is zeros."""
        return (
            type(module) in (nn.Conv1d, nn.Conv2d)
            and isinstance(module, nn.Conv1d | nn.Conv2d)
            and module.groups == 1
            and module.padding_mode == "zeros"
            and not isinstance(module.padding, str)
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if inputs.ndim != 2 + self._geometry.space:
            raise ValueError(f"a packed convolution needs inputs of {2 + self._geometry.space} dimensions")
        columns: torch.Tensor = _Columns.apply(inputs, self._geometry)  # type: ignore[no-untyped-call]
        weight, flat = self.weight.flatten(1), columns.flatten(2).flatten(0, 1)
        product = weight @ flat if self.bias is None else torch.addmm(self.bias.unsqueeze(1), weight, flat)
        return product.view(len(weight), *columns.shape[2:]).movedim(-1, 0)


class PackedMaxPool(nn.Module):
    """Does what an ``nn.MaxPool1d`` or ``nn.MaxPool2d`` does.

    Args:
        layer: see ``fits``.
    """

    def __init__(self, layer: nn.MaxPool1d | nn.MaxPool2d) -> None:
        super().__init__()
        space = 1 if isinstance(layer, nn.MaxPool1d) else 2
        self._kernel, self._stride, self._dilation = (
            _tuple(given, space) for given in (layer.kernel_size, layer.stride, layer.dilation)
        )

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Whether its windows are all inside, and nobody asks where the largest stood."""
        return (
            type(module) in (nn.MaxPool1d, nn.MaxPool2d)
            and isinstance(module, nn.MaxPool1d | nn.MaxPool2d)
            and not any(_tuple(module.padding, 1))
            and not module.ceil_mode
            and not module.return_indices
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        space = len(self._kernel)
        # With channels and examples changed over, torch's kernel finds what ``PackedConvolution`` gives as it likes it
        # best: what it treats alike, here the examples, side by side in memory.
        batched = inputs.ndim == 2 + space
        given = inputs.transpose(0, 1) if batched else inputs
        pool = functional.max_pool2d if space == 2 else functional.max_pool1d
        found = pool(given, self._kernel, self._stride, 0, self._dilation)
        return found.transpose(0, 1) if batched else found


@dataclass(frozen=True, slots=True)
class _Geometry:
    """Where a kernel stands: a number for each dimension of space. ``torch.func`` looks into tuples that a function is
    given, over and over; into this it does not.

    Shapes and tensors are those of ``_Columns``, with the examples moved to the end: (..., *space, B).
    """

    kernel: Sequence[int]
    stride: Sequence[int]
    dilation: Sequence[int]
    padding: Sequence[int]

    @property
    def space(self) -> int:
        return len(self.kernel)

    def padded(self, shape: Sequence[int]) -> torch.Size:
        """The shape with the edges that are added."""
        first = -self.space - 1
        sizes = [size + 2 * edge for size, edge in zip(shape[first:-1], self.padding, strict=True)]
        return torch.Size([*shape[:first], *sizes, shape[-1]])

    def interior(self, shape: Sequence[int]) -> tuple[Any, ...]:
        """Where what had this ``shape`` stands in what ``padded`` gives."""
        sizes = zip(shape[-self.space - 1 : -1], self.padding, strict=True)
        return (..., *(slice(edge, edge + size) for size, edge in sizes), slice(None))

    def counts(self, sizes: Sequence[int]) -> list[int]:
        """How many places the kernel stands at in inputs of these sizes."""
        return [
            math.floor((size - spread * (width - 1) - 1) / step) + 1
            for size, width, step, spread in zip(sizes, self.kernel, self.stride, self.dilation, strict=True)
        ]

    def seen(self, inputs: torch.Tensor) -> torch.Tensor:
        """What each place of the kernel sees of the inputs, (..., *kernel, *space, B): a view."""
        first = -self.space - 1
        steps = inputs.stride()
        between = zip(steps[first:-1], self.dilation, strict=True)
        onward = zip(steps[first:-1], self.stride, strict=True)
        return inputs.as_strided(
            (*inputs.shape[:first], *self.kernel, *self.counts(inputs.shape[first:-1]), inputs.shape[-1]),
            (*steps[:first], *(step * by for step, by in (*between, *onward)), steps[-1]),
        )

    def windows(self, sizes: Sequence[int]) -> list[tuple[Any, ...]]:
        """The same as indices, one for each place of the kernel."""
        axes = [
            [slice(k * spread, k * spread + step * (count - 1) + 1, step) for k in range(width)]
            for count, width, step, spread in zip(
                self.counts(sizes), self.kernel, self.stride, self.dilation, strict=True
            )
        ]
        return list(itertools.product(*axes))


class _Columns(torch.autograd.Function):
    """(..., B, channels, *space) to what each place of the kernel sees, (..., channels, places, *space, B). Its
    derivative adds up in place, where autograd's would make a whole tensor for each place. Examples lie innermost in
    memory, also in what comes of it, since windows are narrow. Dimensions in front are members."""

    @staticmethod
    def forward(inputs: torch.Tensor, geometry: _Geometry) -> torch.Tensor:
        space = geometry.space
        moved = inputs.movedim(-space - 2, -1)
        shape = geometry.padded(moved.shape)
        padded = moved if shape == moved.shape else moved.new_zeros(shape)
        if padded is not moved:
            padded[geometry.interior(moved.shape)] = moved
        seen = geometry.seen(padded)
        # the only copy
        return seen.reshape(*shape[: -space - 1], math.prod(geometry.kernel), *seen.shape[-space - 1 :])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        given, ctx.geometry = inputs
        ctx.shape = given.movedim(-ctx.geometry.space - 2, -1).shape

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], given: torch.Tensor, geometry: _Geometry) -> tuple[Any, Any]:
        assert in_dims[0] is not None
        return _Columns.apply(given.movedim(in_dims[0], 0), geometry), 0  # type: ignore[no-untyped-call]

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        geometry: _Geometry = ctx.geometry
        shape = geometry.padded(ctx.shape)
        found = slope.new_zeros(shape)
        windows = geometry.windows(shape[-geometry.space - 1 : -1])
        for window, part in zip(windows, slope.unbind(-geometry.space - 2), strict=True):
            found[(..., *window, slice(None))].add_(part)
        return found[geometry.interior(ctx.shape)].movedim(-1, -geometry.space - 2), None


def _tuple(given: Any, space: int) -> tuple[int, ...]:
    return tuple(given) if isinstance(given, tuple | list) else (given,) * space
