"""Modules for convolution and max pooling that ``vmap`` batches well. It turns torch's own into slow grouped ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from raytune_rl.population.packed.geometry import Geometry


class _ByIm2Col(nn.Module):
    """Computes what a convolution computes as im2col and one product."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    geometry: Geometry

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if inputs.ndim != 2 + self.geometry.spatial_dims:
            raise ValueError(f"a packed convolution needs inputs of {2 + self.geometry.spatial_dims} dimensions")
        columns: torch.Tensor = _Im2Col.apply(inputs, self.geometry)  # type: ignore[no-untyped-call]
        weight, flat = self.weight.flatten(1), columns.flatten(2).flatten(0, 1)
        product = weight @ flat if self.bias is None else torch.addmm(self.bias.unsqueeze(1), weight, flat)
        return product.view(len(weight), *columns.shape[2:]).movedim(-1, 0)


class PackedConv1d(_ByIm2Col, nn.Conv1d):
    """A packed ``nn.Conv1d``."""


class PackedConv2d(_ByIm2Col, nn.Conv2d):
    """A packed ``nn.Conv2d``."""


def pack_convolution(module: nn.Module) -> None:
    """Make an ungrouped convolution with zero padding, given in numbers, a packed one, in place; leave others."""
    if type(module) not in (nn.Conv1d, nn.Conv2d) or not isinstance(module, nn.Conv1d | nn.Conv2d):
        return
    if module.groups != 1 or module.padding_mode != "zeros" or isinstance(module.padding, str):
        return
    geometry = Geometry(module.kernel_size, module.stride, module.dilation, module.padding)
    module.__class__ = PackedConv1d if isinstance(module, nn.Conv1d) else PackedConv2d
    assert isinstance(module, PackedConv1d | PackedConv2d)
    module.geometry = geometry


class _ExamplesInnermost(nn.Module):
    """Computes what max pooling computes, fast for the outputs of ``_ByIm2Col``."""

    geometry: Geometry

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        # ``_ByIm2Col`` gives outputs whose examples are innermost in memory. With batch and channels swapped, these are
        # channels-last images, for which torch's kernel is fastest.
        geometry = self.geometry
        batched = inputs.ndim == 2 + geometry.spatial_dims
        images = inputs.transpose(0, 1) if batched else inputs
        pool = functional.max_pool2d if geometry.spatial_dims == 2 else functional.max_pool1d
        outputs: torch.Tensor = pool(images, geometry.kernel, geometry.stride, geometry.padding, geometry.dilation)
        return outputs.transpose(0, 1) if batched else outputs


class PackedMaxPool1d(_ExamplesInnermost, nn.MaxPool1d):
    """A packed ``nn.MaxPool1d``."""


class PackedMaxPool2d(_ExamplesInnermost, nn.MaxPool2d):
    """A packed ``nn.MaxPool2d``."""


def pack_max_pool(module: nn.Module) -> None:
    """Make max pooling without padding, ceil mode and returned indices a packed one, in place; leave others."""
    if type(module) not in (nn.MaxPool1d, nn.MaxPool2d) or not isinstance(module, nn.MaxPool1d | nn.MaxPool2d):
        return
    if any(_per_dim(module.padding, 1)) or module.ceil_mode or module.return_indices:
        return
    dims = 1 if isinstance(module, nn.MaxPool1d) else 2
    sizes = (module.kernel_size, module.stride, module.dilation, 0)
    geometry = Geometry(*(_per_dim(size, dims) for size in sizes))
    module.__class__ = PackedMaxPool1d if dims == 1 else PackedMaxPool2d
    assert isinstance(module, PackedMaxPool1d | PackedMaxPool2d)
    module.geometry = geometry


class _Im2Col(torch.autograd.Function):
    """(..., B, channels, *space) to im2col columns (..., channels, taps, *output space, B). Leading dimensions are
    members.

    The backward pass (col2im) adds up in place; autograd's would allocate a whole tensor per kernel tap. Examples are
    innermost in memory, and stay so in what is computed from the columns, because windows are narrow: a loop along one
    would be short."""

    @staticmethod
    def forward(inputs: torch.Tensor, geometry: Geometry) -> torch.Tensor:
        return geometry.im2col(inputs.movedim(-geometry.spatial_dims - 2, -1))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        images, ctx.geometry = inputs
        ctx.shape = images.movedim(-ctx.geometry.spatial_dims - 2, -1).shape

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], inputs: torch.Tensor, geometry: Geometry) -> tuple[Any, Any]:
        assert in_dims[0] is not None
        return _Im2Col.apply(inputs.movedim(in_dims[0], 0), geometry), 0  # type: ignore[no-untyped-call]

    @staticmethod
    def backward(ctx: Any, grad_columns: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        geometry: Geometry = ctx.geometry
        dims = geometry.spatial_dims
        grad_inputs = grad_columns.new_zeros(ctx.shape)
        slices = geometry.tap_slices(ctx.shape[-dims - 1 : -1])
        for (inside, positions), grad_tap in zip(slices, grad_columns.unbind(-dims - 2), strict=True):
            grad_inputs[inside].add_(grad_tap[positions])
        return grad_inputs.movedim(-1, -dims - 2), None


def _per_dim(value: Any, spatial_dims: int) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,) * spatial_dims
