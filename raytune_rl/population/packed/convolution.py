"""Convolutions as one matrix product per member: grouped convolutions, which ``vmap`` makes of them, are slow."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


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
        edges = [int(width) for width in reversed(self._padding) for _ in range(2)]
        padded = F.pad(inputs, edges) if any(edges) else inputs
        columns: torch.Tensor = _Columns.apply(padded, self._kernel, self._stride, self._dilation)  # type: ignore[no-untyped-call]
        product = self.weight.flatten(1) @ columns.flatten(2).flatten(0, 1)
        if self.bias is not None:
            product = product + self.bias.unsqueeze(1)
        return product.view(len(self.weight), *columns.shape[2:]).transpose(0, 1)


class _Columns(torch.autograd.Function):
    """(..., B, channels, *space) to what each place of the kernel sees, (..., channels, places, B, *space). Its
    derivative adds up in place, where autograd's would make a whole tensor for each place. Dimensions in front are
    members."""

    @staticmethod
    def forward(
        inputs: torch.Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
    ) -> torch.Tensor:
        space = len(kernel)
        windows = _windows(inputs.shape[-space:], kernel, stride, dilation)
        turned = inputs.transpose(-space - 1, -space - 2)
        return torch.stack([turned[(..., *window)] for window in windows], dim=-space - 2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        given, *ctx.geometry = inputs
        ctx.shape = given.shape

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], given: torch.Tensor, *geometry: Any) -> tuple[Any, Any]:
        assert in_dims[0] is not None
        return _Columns.apply(given.movedim(in_dims[0], 0), *geometry), 0  # type: ignore[no-untyped-call]

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:  # type: ignore[override]
        space = len(ctx.geometry[0])
        found = slope.new_zeros(ctx.shape)
        turned = found.transpose(-space - 1, -space - 2)
        windows = _windows(ctx.shape[-space:], *ctx.geometry)
        for window, part in zip(windows, slope.unbind(-space - 2), strict=True):
            turned[(..., *window)].add_(part)
        return found, None, None, None


def _windows(
    sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> list[tuple[slice, ...]]:
    """For each place of the kernel, what it sees of an input of these sizes."""
    axes = []
    for size, width, step, spread in zip(sizes, kernel, stride, dilation, strict=True):
        count = math.floor((size - spread * (width - 1) - 1) / step) + 1
        axes.append([slice(k * spread, k * spread + step * (count - 1) + 1, step) for k in range(width)])
    return list(itertools.product(*axes))
