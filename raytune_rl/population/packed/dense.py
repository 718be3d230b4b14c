"""Linear layers, activations, dropout and reshaping for hand-written stacks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from raytune_rl.population.packed.activations import Activation
from raytune_rl.population.packed.binding import BoundLayer, DropoutRates, LayerContext


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear layer: the names of its parameters."""

    weight: str
    bias: str | None
    has_parameters: ClassVar[bool] = True
    spatial: ClassVar[bool] = False

    def bind(self, context: LayerContext) -> BoundLayer:
        weight = context.parameters[self.weight][context.rows]
        (members, outputs, inputs), batch = weight.shape, context.shape[-1]
        largest = max(outputs, inputs) if context.needs_input_grad else outputs
        # The gradient of the input is written over the output, which nobody reads any more by then.
        buffer = context.workspace.buffer(f"linear {context.index}", (members * largest * batch,))

        def start_of_buffer(*shape: int) -> torch.Tensor:
            return buffer[: math.prod(shape)].view(shape)

        return _BoundLinear(
            weight=weight,
            weight_t=weight.transpose(1, 2),
            bias=None if self.bias is None else context.parameters[self.bias][context.rows].unsqueeze(2),
            weight_grad=context.gradients[self.weight][context.rows],
            bias_grad=None if self.bias is None else context.gradients[self.bias][context.rows],
            output=start_of_buffer(members, outputs, batch),
            contiguous_grad=context.workspace.buffer("weight gradient", weight.shape),
            input_grad=start_of_buffer(members, inputs, batch) if context.needs_input_grad else None,
        )

    def outputs(self, hidden: torch.Tensor, parameters: Mapping[str, torch.Tensor]) -> torch.Tensor:
        weight = parameters[self.weight]
        hidden = hidden.expand(len(weight), -1, -1)
        if self.bias is None:
            return torch.bmm(weight, hidden)
        return torch.baddbmm(parameters[self.bias].unsqueeze(2), weight, hidden)


@dataclass(frozen=True, slots=True)
class _BoundLinear:
    weight: torch.Tensor  # (k, out, in), a view into the flat parameters
    weight_t: torch.Tensor  # (k, in, out)
    bias: torch.Tensor | None  # (k, out, 1)
    weight_grad: torch.Tensor  # (k, out, in), a view into the flat gradients
    bias_grad: torch.Tensor | None  # (k, out)
    output: torch.Tensor  # (k, out, B)
    contiguous_grad: torch.Tensor  # (k, out, in): bmm needs contiguous memory for its result, unlike ``weight_grad``
    input_grad: torch.Tensor | None  # (k, in, B); None for the first layer with parameters
    output_saved_by: ClassVar[Activation | None] = None
    reusable_output: ClassVar[torch.Tensor | None] = None

    @property
    def shape(self) -> torch.Size:
        return self.output.shape

    def forward(self, hidden: torch.Tensor, dropout: DropoutRates | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        if self.bias is None:
            return torch.bmm(self.weight, hidden, out=self.output), hidden
        return torch.baddbmm(self.bias, self.weight, hidden, out=self.output), hidden

    def backward(self, grad: torch.Tensor, saved: torch.Tensor | None) -> torch.Tensor:
        assert saved is not None
        self.weight_grad.copy_(torch.bmm(grad, saved.transpose(1, 2), out=self.contiguous_grad))
        if self.bias_grad is not None:
            torch.sum(grad, dim=2, out=self.bias_grad)
        return grad if self.input_grad is None else torch.bmm(self.weight_t, grad, out=self.input_grad)


@dataclass(frozen=True, slots=True)
class Elementwise:
    """An activation."""

    activation: Activation
    has_parameters: ClassVar[bool] = False
    spatial: ClassVar[bool] = False

    def bind(self, context: LayerContext) -> BoundLayer:
        saves_input = self.activation.saves_input
        return _BoundElementwise(
            activation=self.activation,
            clone_input=context.input_saved_by is not None and not saves_input,
            shape=context.shape,
            output_saved_by=None if saves_input else self.activation,
        )

    def outputs(self, hidden: torch.Tensor, parameters: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return self.activation.forward(hidden)


@dataclass(frozen=True, slots=True)
class _BoundElementwise:
    activation: Activation
    clone_input: bool  # because the activation would overwrite what another one has saved
    shape: torch.Size
    output_saved_by: Activation | None
    reusable_output: ClassVar[torch.Tensor | None] = None

    def forward(self, hidden: torch.Tensor, dropout: DropoutRates | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        hidden = hidden.clone() if self.clone_input else hidden
        output = self.activation.forward(hidden)
        return output, hidden  # unless the activation saves its input, both are the output: it worked in place

    def backward(self, grad: torch.Tensor, saved: torch.Tensor | None) -> torch.Tensor:
        assert saved is not None
        self.activation.backward(grad, saved)
        return grad


@dataclass(frozen=True, slots=True)
class Dropout:
    """Dropout; ``site`` is the column of its rate in ``DropoutRates``."""

    site: int
    has_parameters: ClassVar[bool] = False
    spatial: ClassVar[bool] = False

    def bind(self, context: LayerContext) -> BoundLayer:
        # If the backward pass of the activation before it stops the gradient of dropped elements (their masked output
        # is zero), then only the scale is left to apply here, and the mask's buffer can be shared between layers.
        activation = context.input_saved_by
        mask_in_output = activation is not None and activation.survives_mask
        in_place = context.needs_input_grad and (activation is None or mask_in_output)
        name = "mask" if mask_in_output else f"mask {context.index}"
        return _BoundDropout(
            site=self.site,
            mask=context.workspace.buffer(name, context.shape),
            mask_in_output=mask_in_output,
            in_place=in_place,
            shape=context.shape,
            output_saved_by=activation if in_place else None,
        )

    def outputs(self, hidden: torch.Tensor, parameters: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return hidden


@dataclass(frozen=True, slots=True)
class _BoundDropout:
    site: int
    mask: torch.Tensor  # like the input: zero or the scale
    mask_in_output: bool
    in_place: bool
    shape: torch.Size
    output_saved_by: Activation | None
    reusable_output: ClassVar[torch.Tensor | None] = None

    def forward(self, hidden: torch.Tensor, dropout: DropoutRates | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        if dropout is None:
            return hidden, None
        per_member = (-1, *[1] * (hidden.ndim - 1))
        rates, scale = dropout.rates[:, self.site].view(per_member), dropout.scale[:, self.site].view(per_member)
        # Members share the random numbers and differ in the rate: drawing for each would cost more than the product
        # that follows.
        draw = torch.rand(hidden.shape[1:], dtype=hidden.dtype, device=hidden.device)
        mask = torch.ge(draw, rates, out=self.mask).mul_(scale)
        hidden = hidden.mul_(mask) if self.in_place else hidden * mask
        return hidden, scale if self.mask_in_output else mask

    def backward(self, grad: torch.Tensor, saved: torch.Tensor | None) -> torch.Tensor:
        return grad if saved is None else grad.mul_(saved)


@dataclass(frozen=True, slots=True)
class Reshape:
    """Flattening of each example, or, with ``sizes``, unflattening to these sizes."""

    sizes: tuple[int, ...] | None = None
    has_parameters: ClassVar[bool] = False
    spatial: ClassVar[bool] = False

    def bind(self, context: LayerContext) -> BoundLayer:
        empty = torch.empty(context.shape, device="meta")
        output_shape = self.outputs(empty, {}).shape
        return _BoundReshape(input_shape=context.shape, shape=output_shape, output_saved_by=context.input_saved_by)

    def outputs(self, hidden: torch.Tensor, parameters: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return hidden.flatten(1, -2) if self.sizes is None else torch.unflatten(hidden, 1, self.sizes)


@dataclass(frozen=True, slots=True)
class _BoundReshape:
    input_shape: torch.Size
    shape: torch.Size
    output_saved_by: Activation | None
    reusable_output: ClassVar[torch.Tensor | None] = None

    def forward(self, hidden: torch.Tensor, dropout: DropoutRates | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        return hidden.reshape(self.shape), None

    def backward(self, grad: torch.Tensor, saved: torch.Tensor | None) -> torch.Tensor:
        return grad.view(self.input_shape)
