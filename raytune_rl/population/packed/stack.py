"""Stacks of linear layers, forward and backward by hand: no graph, no allocation, a matrix product per layer for all.

Activations lie feature-major, shape (K, features, B). So both products of a forward pass and its backward pass are the
kind that the libraries do best, weights need no transposition, and softmax runs over a dimension that vectorises.
Everything happens in place where the backward pass does not need what would be overwritten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import nn

from raytune_rl.population.packed.activations import ACTIVATIONS, Activation
from raytune_rl.population.packed.layout import Layout


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear layer: the indices of its weight and its bias among the leaves."""

    weight: int
    bias: int | None
    inputs: int
    outputs: int


@dataclass(frozen=True, slots=True)
class Dropout:
    """Multiplies by a mask; ``site`` counts the dropout layers."""

    site: int


Operation: TypeAlias = Linear | Dropout | Activation


def parse(network: nn.Module, layout: Layout) -> list[Operation] | None:
    """The operations of a stack of linear layers, ``None`` for any other network.

    Taken are ``Sequential`` s (nested ones too) of ``Linear``, ``Dropout``, the activations of ``activations.py``,
    ``Identity``, and a ``Flatten`` before the first linear layer.
    """
    if type(network) is not nn.Sequential or layout.aliases:
        return None
    names = {leaf.name: index for index, leaf in enumerate(layout.leaves)}
    operations: list[Operation] = []
    modules = _flat(network)
    seen: set[int] = set()
    for name, module in modules:
        kind = type(module)
        if kind is nn.Identity:
            continue
        if id(module) in seen and kind in (nn.Linear, nn.Dropout):
            return None  # shared layers
        seen.add(id(module))
        if kind is nn.Flatten:
            if operations or (module.start_dim, module.end_dim) != (1, -1):
                return None
        elif kind is nn.Linear:
            bias = names[f"{name}.bias"] if module.bias is not None else None
            operations.append(Linear(names[f"{name}.weight"], bias, module.in_features, module.out_features))
        elif not operations:
            return None
        elif kind is nn.Dropout:
            operations.append(Dropout(sum(isinstance(operation, Dropout) for operation in operations)))
        elif (make := ACTIVATIONS.get(kind)) is not None:
            operations.append(make(module))
        else:
            return None
    has_hooks = any(module._forward_hooks or module._forward_pre_hooks for _, module in modules)
    return operations if operations and isinstance(operations[0], Linear) and not has_hooks else None


def _flat(network: nn.Module, prefix: str = "") -> list[tuple[str, nn.Module]]:
    found: list[tuple[str, nn.Module]] = []
    for name, child in network.named_children():
        path = f"{prefix}{name}"
        found += _flat(child, f"{path}.") if type(child) is nn.Sequential else [(path, child)]
    return found


class Stack:
    """Buffers and passes for ``members`` members with batches of ``batch`` examples.

    Call ``bind`` before anything else, and again for other members.
    """

    def __init__(
        self, operations: Sequence[Operation], layout: Layout, *, members: int, batch: int, like: torch.Tensor
    ) -> None:
        self._operations = operations
        self._layout = layout
        self._outputs: list[torch.Tensor] = []  # after each operation; may be the same tensor as the one before
        self._products: list[torch.Tensor | None] = []
        self._gradients: list[torch.Tensor] = []  # with respect to the input of each operation
        held = slope = like.new_empty(0)
        needed: Literal["nothing", "sign", "all"] = "nothing"  # of ``held`` by the backward passes so far
        for operation in operations:
            self._gradients.append(slope)
            self._products.append(None)
            if isinstance(operation, Linear):
                held = like.new_empty(members, operation.outputs, batch)
                slope, needed = torch.empty_like(held), "nothing"
                self._products[-1] = like.new_empty(members, operation.outputs, operation.inputs)
            elif isinstance(operation, Dropout):
                if needed == "all":
                    held, needed = torch.empty_like(held), "nothing"
            elif operation.needs_input:
                held, needed = torch.empty_like(held), "nothing"
            else:
                held = held if needed == "nothing" else torch.empty_like(held)
                needed = "sign" if operation.survives_mask else "all"
            self._outputs.append(held)

    def bind(self, parameters: torch.Tensor, gradient: torch.Tensor) -> None:
        """Work with these parameters, shape (members, P), and fill this gradient of the same shape."""
        values = list(self._layout.views(parameters).values())
        slopes = list(self._layout.views(gradient).values())
        self._bound: list[tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor | None] | None] = []
        for operation in self._operations:
            if isinstance(operation, Linear):
                bias = operation.bias
                self._bound.append(
                    (
                        values[operation.weight],
                        None if bias is None else values[bias].unsqueeze(2),
                        slopes[operation.weight],
                        None if bias is None else slopes[bias],
                    )
                )
            else:
                self._bound.append(None)

    def forward(self, inputs: torch.Tensor, masks: Sequence[torch.Tensor | None]) -> torch.Tensor:
        """Outputs of shape (members, features, B) for inputs (members, B, features).

        ``masks``: for each dropout layer what to multiply by, shape (members, features, B); ``None`` = nothing.
        """
        held = inputs.transpose(1, 2)
        for operation, bound, into in zip(self._operations, self._bound, self._outputs, strict=True):
            if isinstance(operation, Linear):
                assert bound is not None
                weight, bias = bound[:2]
                if bias is None:
                    torch.bmm(weight, held, out=into)
                else:
                    torch.baddbmm(bias, weight, held, out=into)
            elif isinstance(operation, Dropout):
                mask = masks[operation.site]
                if mask is not None:
                    torch.mul(held, mask, out=into)
                elif into is not held:
                    into.copy_(held)
            else:
                operation.forward(held, into)
            held = into
        return held

    def backward(self, inputs: torch.Tensor, slope: torch.Tensor, masks: Sequence[torch.Tensor | None]) -> None:
        """The gradient, given that of the loss with respect to the outputs; ``slope`` is overwritten."""
        for index in reversed(range(len(self._operations))):
            operation, bound = self._operations[index], self._bound[index]
            if isinstance(operation, Linear):
                assert bound is not None
                weight, _, weight_slope, bias_slope = bound
                before = inputs if index == 0 else self._outputs[index - 1].transpose(1, 2)
                product = self._products[index]
                assert product is not None
                weight_slope.copy_(torch.bmm(slope, before, out=product))
                if bias_slope is not None:
                    torch.sum(slope, dim=2, out=bias_slope)
                if index:
                    slope = torch.bmm(weight.transpose(1, 2), slope, out=self._gradients[index])
            elif isinstance(operation, Dropout):
                mask = masks[operation.site]
                if mask is not None:
                    slope.mul_(mask)
            else:
                operation.backward(slope, self._outputs[index - 1], self._outputs[index])

    @property
    def site_shapes(self) -> list[tuple[int, int]]:
        """(features, B) of each dropout layer."""
        pairs = zip(self._operations, self._outputs, strict=True)
        return [(out.shape[1], out.shape[2]) for operation, out in pairs if isinstance(operation, Dropout)]


def infer(
    operations: Sequence[Operation], layout: Layout, parameters: torch.Tensor, inputs: torch.Tensor
) -> torch.Tensor:
    """Outputs (members, features, N) in evaluation for inputs (N, features) that all members share."""
    values = list(layout.views(parameters).values())
    held = inputs
    for index, operation in enumerate(operations):
        if isinstance(operation, Dropout):
            continue
        if not isinstance(operation, Linear):
            operation.forward(held, into := torch.empty_like(held) if operation.needs_input else held)
            held = into
            continue
        weight = values[operation.weight]
        bias = None if operation.bias is None else values[operation.bias]
        if index == 0:  # one product for all members
            wide = weight.reshape(-1, operation.inputs)
            held = (
                torch.mm(wide, inputs.T)
                if bias is None
                else torch.addmm(bias.reshape(-1, 1), wide, inputs.T)
            )
            held = held.view(len(parameters), operation.outputs, -1)
        else:
            held = torch.bmm(weight, held) if bias is None else torch.baddbmm(bias.unsqueeze(2), weight, held)
    return held
