"""Small convolutions and maxima, batched over members: what ``vmap`` makes of torch's own (grouped ones) is slow."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from raytune_rl.population.packed.geometry import Geometry


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
        self.geometry = Geometry(layer.kernel_size, layer.stride, layer.dilation, layer.padding)

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
        if inputs.ndim != 2 + self.geometry.space:
            raise ValueError(f"a packed convolution needs inputs of {2 + self.geometry.space} dimensions")
        columns: torch.Tensor = _Columns.apply(inputs, self.geometry)  # type: ignore[no-untyped-call]
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
        self.geometry = Geometry(
            *(_tuple(given, space) for given in (layer.kernel_size, layer.stride, layer.dilation, 0))
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
        # With channels and examples changed over, torch's kernel finds what ``PackedConvolution`` gives as it likes it
        # best: what it treats alike, here the examples, side by side in memory.
        geometry = self.geometry
        batched = inputs.ndim == 2 + geometry.space
        given = inputs.transpose(0, 1) if batched else inputs
        pool = functional.max_pool2d if geometry.space == 2 else functional.max_pool1d
        found: torch.Tensor = pool(given, geometry.kernel, geometry.stride, geometry.padding, geometry.dilation)
        return found.transpose(0, 1) if batched else found


class _Columns(torch.autograd.Function):
    """(..., B, channels, *space) to what each place of the kernel sees, (..., channels, places, *space, B). Its
    derivative adds up in place, where autograd's would make a whole tensor for each place. Examples lie innermost in
    memory, also in what comes of it, since windows are narrow. Dimensions in front are members."""

    @staticmethod
    def forward(inputs: torch.Tensor, geometry: Geometry) -> torch.Tensor:
        return geometry.columns(inputs.movedim(-geometry.space - 2, -1))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        given, ctx.geometry = inputs
        ctx.shape = given.movedim(-ctx.geometry.space - 2, -1).shape

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], given: torch.Tensor, geometry: Geometry) -> tuple[Any, Any]:
        assert in_dims[0] is not None
        return _Columns.apply(given.movedim(in_dims[0], 0), geometry), 0  # type: ignore[no-untyped-call]

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        geometry: Geometry = ctx.geometry
        found = slope.new_zeros(ctx.shape)
        windows = geometry.windows(ctx.shape[-geometry.space - 1 : -1])
        for (inside, positions), part in zip(windows, slope.unbind(-geometry.space - 2), strict=True):
            found[inside].add_(part[positions])
        return found.movedim(-1, -geometry.space - 2), None


def _tuple(given: Any, space: int) -> tuple[int, ...]:
    return tuple(given) if isinstance(given, tuple | list) else (given,) * space
