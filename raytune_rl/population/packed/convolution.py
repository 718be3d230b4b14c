"""Small convolutions and maxima, batched over members: what ``vmap`` makes of torch's own (grouped ones) is slow."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
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
        self._kernel, self._stride, self._dilation = layer.kernel_size, layer.stride, layer.dilation
        self._padding = layer.padding

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
        if inputs.ndim != 2 + len(self._kernel):
            raise ValueError(f"a packed convolution needs inputs of {2 + len(self._kernel)} dimensions")
        columns: torch.Tensor = _Columns.apply(  # type: ignore[no-untyped-call]
            inputs, self._kernel, self._stride, self._dilation, self._padding
        )
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


class _Columns(torch.autograd.Function):
    """(..., B, channels, *space) to what each place of the kernel sees, (..., channels, places, *space, B). Its
    derivative adds up in place, where autograd's would make a whole tensor for each place. Examples lie innermost in
    memory, also in what comes of it, since windows are narrow. Dimensions in front are members."""

    @staticmethod
    def forward(
        inputs: torch.Tensor,
        kernel: Sequence[int],
        stride: Sequence[int],
        dilation: Sequence[int],
        padding: Sequence[int],
    ) -> torch.Tensor:
        space = len(kernel)
        moved = inputs.movedim(-space - 2, -1)
        shape = _padded(moved.shape, padding)
        padded = moved if shape == moved.shape else moved.new_zeros(shape)
        if padded is not moved:
            padded[_interior(moved.shape, padding)] = moved
        seen = _seen(padded, kernel, stride, dilation)
        return seen.reshape(*shape[: -space - 1], math.prod(kernel), *seen.shape[-space - 1 :])  # the only copy

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        given, *ctx.geometry, ctx.padding = inputs
        ctx.shape = given.movedim(-len(ctx.padding) - 2, -1).shape

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], given: torch.Tensor, *geometry: Any) -> tuple[Any, Any]:
        assert in_dims[0] is not None
        return _Columns.apply(given.movedim(in_dims[0], 0), *geometry), 0  # type: ignore[no-untyped-call]

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        space = len(ctx.padding)
        shape = _padded(ctx.shape, ctx.padding)
        found = slope.new_zeros(shape)
        windows = _windows(shape[-space - 1 : -1], *ctx.geometry)
        for window, part in zip(windows, slope.unbind(-space - 2), strict=True):
            found[(..., *window, slice(None))].add_(part)
        return found[_interior(ctx.shape, ctx.padding)].movedim(-1, -space - 2), None, None, None, None


def _tuple(given: Any, space: int) -> tuple[int, ...]:
    return tuple(given) if isinstance(given, tuple | list) else (given,) * space


def _padded(shape: Sequence[int], padding: Sequence[int]) -> torch.Size:
    """(..., *space, B) with the edges that are added."""
    space = [size + 2 * edge for size, edge in zip(shape[-len(padding) - 1 : -1], padding, strict=True)]
    return torch.Size([*shape[: -len(padding) - 1], *space, shape[-1]])


def _interior(shape: Sequence[int], padding: Sequence[int]) -> tuple[Any, ...]:
    """Where what had this ``shape`` stands in what ``_padded`` gives."""
    sizes = shape[-len(padding) - 1 : -1]
    return (..., *(slice(edge, edge + size) for size, edge in zip(sizes, padding, strict=True)), slice(None))


def _seen(inputs: torch.Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> torch.Tensor:
    """A view of inputs (..., *space, B): (..., *kernel, *space, B), what each place of the kernel sees."""
    space = len(kernel)
    front, sizes = inputs.shape[: -space - 1], inputs.shape[-space - 1 : -1]
    steps = inputs.stride()
    inner = steps[-space - 1 : -1]
    return inputs.as_strided(
        (*front, *kernel, *_counts(sizes, kernel, stride, dilation), inputs.shape[-1]),
        (
            *steps[: -space - 1],
            *(step * spread for step, spread in zip(inner, dilation, strict=True)),
            *(step * hop for step, hop in zip(inner, stride, strict=True)),
            steps[-1],
        ),
    )


def _counts(sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """How many places a kernel stands at, along each dimension."""
    return [
        math.floor((size - spread * (width - 1) - 1) / step) + 1
        for size, width, step, spread in zip(sizes, kernel, stride, dilation, strict=True)
    ]


def _windows(
    sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> list[tuple[Any, ...]]:
    """For each place of the kernel, what it sees of an input of these sizes."""
    axes = []
    counts = _counts(sizes, kernel, stride, dilation)
    for count, width, step, spread in zip(counts, kernel, stride, dilation, strict=True):
        axes.append([slice(k * spread, k * spread + step * (count - 1) + 1, step) for k in range(width)])
    return list(itertools.product(*axes))
