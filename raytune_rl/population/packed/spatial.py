"""1-D and 2-D convolution and max pooling for hand-written stacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.nn import functional

from raytune_rl.population.packed.activations import Activation
from raytune_rl.population.packed.binding import BoundLayer, DropoutRates, LayerContext
from raytune_rl.population.packed.geometry import Geometry

_aten: Any = torch.ops.aten


@dataclass(frozen=True, slots=True, kw_only=True)
class _BoundSpatial:
    """A bound layer whose output is always the same buffer, which its own backward pass does not read."""

    output: torch.Tensor  # (k, channels, *space, B)
    output_saved_by: ClassVar[Activation | None] = None

    @property
    def shape(self) -> torch.Size:
        return self.output.shape

    @property
    def reusable_output(self) -> torch.Tensor:
        return self.output


@dataclass(frozen=True, slots=True)
class Convolution:
    """A convolution, computed as im2col and one matrix product: the names of its parameters."""

    weight: str
    bias: str | None
    geometry: Geometry
    has_parameters: ClassVar[bool] = True
    spatial: ClassVar[bool] = True

    def bind(self, context: LayerContext) -> BoundLayer:
        geometry, workspace = self.geometry, context.workspace
        weight = context.parameters[self.weight][context.rows].flatten(2)
        members, channels, batch = len(weight), context.shape[1], context.shape[-1]
        shape = geometry.padded_shape(context.shape)
        sizes = geometry.output_sizes(shape[2:-1])
        padded = workspace.buffer("padded", shape) if shape != context.shape else None
        windows = workspace.buffer(f"columns {context.index}", (members, channels, *geometry.kernel, *sizes, batch))
        per_tap = windows.flatten(2, 1 + geometry.spatial_dims)
        input_grad = context.input_grad() if context.needs_input_grad else None
        flat_output = workspace.buffer(f"output {context.index}", (members, weight.shape[1], per_tap[0, 0, 0].numel()))
        return _BoundConvolution(
            geometry=geometry,
            weight=weight,
            weight_t=weight.transpose(1, 2),
            bias=None if self.bias is None else context.parameters[self.bias][context.rows].unsqueeze(2),
            weight_grad_t=context.gradients[self.weight][context.rows].flatten(2).transpose(1, 2),
            bias_grad=None if self.bias is None else context.gradients[self.bias][context.rows],
            padded=padded,
            interior=None if padded is None else padded[geometry.interior(context.shape)],
            unfolded=None if padded is None else geometry.unfolded(padded),
            windows=windows,
            columns=windows.view(members, channels * geometry.taps, -1),
            flat_output=flat_output,
            output=flat_output.view(members, weight.shape[1], *sizes, batch),
            contiguous_grad=workspace.buffer("weight gradient", (members, weight.shape[2], weight.shape[1])),
            input_grad=input_grad,
            col2im=() if input_grad is None else _col2im(geometry, input_grad, per_tap),
        )

    def outputs(self, hidden: torch.Tensor, parameters: Mapping[str, torch.Tensor]) -> torch.Tensor:
        weight = parameters[self.weight].flatten(2)
        columns = self.geometry.im2col(hidden)
        flat = columns.flatten(3).flatten(1, 2)
        if len(flat) < len(weight):  # the same inputs for all models: one product
            product = (weight.flatten(0, 1) @ flat[0]).view(*weight.shape[:2], -1)
        else:
            product = torch.bmm(weight, flat)
        if self.bias is not None:
            product.add_(parameters[self.bias].unsqueeze(2))
        return product.view(*weight.shape[:2], *columns.shape[3:])


@dataclass(frozen=True, slots=True, kw_only=True)
class _BoundConvolution(_BoundSpatial):
    geometry: Geometry
    weight: torch.Tensor  # (k, out, in x taps), a view into the flat parameters
    weight_t: torch.Tensor  # (k, in x taps, out)
    bias: torch.Tensor | None  # (k, out, 1)
    weight_grad_t: torch.Tensor  # (k, in x taps, out), a view into the flat gradients
    bias_grad: torch.Tensor | None  # (k, out)
    padded: torch.Tensor | None  # a buffer for the padded input; None without padding
    interior: torch.Tensor | None  # the view of it that is not padding
    unfolded: torch.Tensor | None  # the view of it by windows
    windows: torch.Tensor  # (k, in, *kernel, *space, B)
    columns: torch.Tensor  # the same as im2col columns, (k, in x taps, space x B); the backward pass overwrites them
    flat_output: torch.Tensor  # ``output`` as (k, out, space x B)
    contiguous_grad: torch.Tensor  # (k, in x taps, out): the product is faster with the larger dimension in front
    input_grad: torch.Tensor | None  # (k, in, *space, B); None for the first layer with parameters
    col2im: Sequence[tuple[torch.Tensor, torch.Tensor]]  # per kernel tap: a view of ``input_grad``, what is added to it

    def forward(self, hidden: torch.Tensor, dropout: DropoutRates | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        if self.padded is None or self.interior is None or self.unfolded is None:
            self.windows.copy_(self.geometry.unfolded(hidden))
        else:
            self.padded.zero_()  # other layers and batches use the same memory
            self.interior.copy_(hidden)
            self.windows.copy_(self.unfolded)
        if self.bias is None:
            torch.bmm(self.weight, self.columns, out=self.flat_output)
        else:
            torch.baddbmm(self.bias, self.weight, self.columns, out=self.flat_output)
        return self.output, None

    def backward(self, grad: torch.Tensor, saved: torch.Tensor | None) -> torch.Tensor:
        flat_grad = grad.view(self.flat_output.shape)
        self.weight_grad_t.copy_(torch.bmm(self.columns, flat_grad.transpose(1, 2), out=self.contiguous_grad))
        if self.bias_grad is not None:
            torch.sum(flat_grad, dim=2, out=self.bias_grad)
        if self.input_grad is None:
            return grad
        torch.bmm(self.weight_t, flat_grad, out=self.columns)
        (first_target, first_grad), *others = self.col2im
        if first_target.shape == self.input_grad.shape:
            first_target.copy_(first_grad)
        else:
            self.input_grad.zero_()
            first_target.add_(first_grad)
        for target, tap_grad in others:
            target.add_(tap_grad)
        return self.input_grad


def _col2im(
    geometry: Geometry, input_grad: torch.Tensor, per_tap: torch.Tensor
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """For each kernel tap: the view of ``input_grad`` (k, in, *space, B) that it contributes to, and the view of the
    columns ``per_tap`` (k, in, taps, *output space, B) that is added. A tap that reaches all of it, if there is one,
    comes first: then it can be copied instead of added to zeros."""
    slices = zip(geometry.tap_slices(input_grad.shape[2:-1]), per_tap.unbind(2), strict=True)
    views = [(input_grad[inside], tap[positions]) for (inside, positions), tap in slices]
    return sorted(views, key=lambda view: view[0].shape != input_grad.shape)


@dataclass(frozen=True, slots=True)
class MaxPool:
    """Max pooling by torch's own 2-D kernel, which is given the examples as channels."""

    geometry: Geometry
    has_parameters: ClassVar[bool] = False
    spatial: ClassVar[bool] = True

    def bind(self, context: LayerContext) -> BoundLayer:
        members, channels, *sizes, batch = context.shape
        shape = (members, channels, *self.geometry.output_sizes(sizes), batch)
        input_grad = None
        if context.needs_input_grad:
            input_grad = context.input_grad() if context.reusable_input is None else context.reusable_input
        output = context.workspace.buffer(f"output {context.index}", shape)
        return _BoundMaxPool(
            window_arguments=_window_arguments(self.geometry),
            input_images=None if context.reusable_input is None else _images(context.reusable_input),
            output=output,
            output_images=_images(output),
            argmax=_images(context.workspace.buffer(f"argmax {context.index}", shape, torch.int64)),
            input_grad=input_grad,
            input_grad_images=None if input_grad is None else _images(input_grad),
        )

    def outputs(self, hidden: torch.Tensor, parameters: Mapping[str, torch.Tensor]) -> torch.Tensor:
        members, channels, *sizes, batch = hidden.shape
        images: torch.Tensor = functional.max_pool2d(_images(hidden), *_window_arguments(self.geometry))
        return images.permute(0, 2, 3, 1).reshape(members, channels, *self.geometry.output_sizes(sizes), batch)


@dataclass(frozen=True, slots=True, kw_only=True)
class _BoundMaxPool(_BoundSpatial):
    window_arguments: tuple[Any, ...]
    input_images: torch.Tensor | None  # the input as images, if it is always the same buffer
    output_images: torch.Tensor  # ``output`` as images
    argmax: torch.Tensor  # as images: which element of its window is the largest; of equal ones, the first
    input_grad: torch.Tensor | None  # (k, channels, *space, B)
    input_grad_images: torch.Tensor | None  # the same as images

    def forward(self, hidden: torch.Tensor, dropout: DropoutRates | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        images = _images(hidden) if self.input_images is None else self.input_images
        _aten.max_pool2d_with_indices.out(images, *self.window_arguments, out=self.output_images, indices=self.argmax)
        return self.output, self.argmax

    def backward(self, grad: torch.Tensor, saved: torch.Tensor | None) -> torch.Tensor:
        assert self.input_grad is not None and self.input_grad_images is not None
        # The second argument is the pooling's input, of which the kernel reads the shape only.
        _aten.max_pool2d_with_indices_backward.grad_input(
            _images(grad),
            self.input_grad_images,
            *self.window_arguments,
            False,
            self.argmax,
            grad_input=self.input_grad_images,
        )
        return self.input_grad


def _images(hidden: torch.Tensor) -> torch.Tensor:
    """A view of (k, channels, *space, B) as channels-last images (k x channels, B, height, width)."""
    flat = hidden.flatten(0, 1)
    return (flat if flat.ndim == 4 else flat.unsqueeze(1)).permute(0, 3, 1, 2)


def _window_arguments(geometry: Geometry) -> tuple[Any, ...]:
    """Kernel size, stride, padding and dilation for torch's 2-D kernel. A single spatial dimension is the width."""
    ones = [1] * (2 - geometry.spatial_dims)
    return [*ones, *geometry.kernel], [*ones, *geometry.stride], [0, 0], [*ones, *geometry.dilation]
