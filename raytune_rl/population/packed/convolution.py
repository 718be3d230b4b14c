"""Modules for convolution and max pooling that ``vmap`` batches well. It turns torch's own into slow grouped ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from raytune_rl.population.packed.geometry import Geometry


class PackedConvolution(nn.Module):
    """Computes what an ``nn.Conv1d`` or ``nn.Conv2d`` computes, with the same parameters, as im2col and one product.

    Args:
        layer: see ``fits``; its parameters are taken over.
    """

    def __init__(self, layer: nn.Conv1d | nn.Conv2d) -> None:
        super().__init__()
        self.weight = layer.weight
        self.bias = layer.bias
        assert not isinstance(layer.padding, str)
        self.geometry = Geometry(layer.kernel_size, layer.stride, layer.dilation, layer.padding)

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Whether ``module`` is an ungrouped convolution with zero padding, given in numbers."""
        return (
            type(module) in (nn.Conv1d, nn.Conv2d)
            and isinstance(module, nn.Conv1d | nn.Conv2d)
            and module.groups == 1
            and module.padding_mode == "zeros"
            and not isinstance(module.padding, str)
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if inputs.ndim != 2 + self.geometry.spatial_dims:
            raise ValueError(f"a packed convolution needs inputs of {2 + self.geometry.spatial_dims} dimensions")
        columns: torch.Tensor = _Im2Col.apply(inputs, self.geometry)  # type: ignore[no-untyped-call]
        weight, flat = self.weight.flatten(1), columns.flatten(2).flatten(0, 1)
        product = weight @ flat if self.bias is None else torch.addmm(self.bias.unsqueeze(1), weight, flat)
        return product.view(len(weight), *columns.shape[2:]).movedim(-1, 0)


class PackedMaxPool(nn.Module):
    """Computes what an ``nn.MaxPool1d`` or ``nn.MaxPool2d`` computes.

    Args:
        layer: see ``fits``.
    """

    def __init__(self, layer: nn.MaxPool1d | nn.MaxPool2d) -> None:
        super().__init__()
        spatial_dims = 1 if isinstance(layer, nn.MaxPool1d) else 2
        self.geometry = Geometry(
            *(_per_dim(value, spatial_dims) for value in (layer.kernel_size, layer.stride, layer.dilation, 0))
        )

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Whether ``module`` is max pooling without padding, without ceil mode, and without returned indices."""
        return (
            type(module) in (nn.MaxPool1d, nn.MaxPool2d)
            and isinstance(module, nn.MaxPool1d | nn.MaxPool2d)
            and not any(_per_dim(module.padding, 1))
            and not module.ceil_mode
            and not module.return_indices
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        # ``PackedConvolution`` gives outputs whose examples are innermost in memory. With batch and channels swapped,
        # these are channels-last images, for which torch's kernel is fastest.
        geometry = self.geometry
        batched = inputs.ndim == 2 + geometry.spatial_dims
        images = inputs.transpose(0, 1) if batched else inputs
        pool = functional.max_pool2d if geometry.spatial_dims == 2 else functional.max_pool1d
        outputs: torch.Tensor = pool(images, geometry.kernel, geometry.stride, geometry.padding, geometry.dilation)
        return outputs.transpose(0, 1) if batched else outputs


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
