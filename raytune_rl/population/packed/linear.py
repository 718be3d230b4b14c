"""Stacks of linear layers by hand: batched matrix products forward and backward, without a graph.

``vmap`` serves any network, but for small ones most of its time is book-keeping. A ``Sequential`` of linear layers,
activations and dropout needs two products per layer and direction. Activations lie feature-major, shape (K, features,
B): so the products are of the kinds that the libraries do best, weights need no transposition, and the softmax runs
over a dimension that vectorises. Whatever the way back does not need is overwritten in place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import nn

from raytune_rl.population.packed.activations import Activation, activation
from raytune_rl.population.packed.layers import PackedDropout
from raytune_rl.population.packed.losses import LossName, Objective, loss_and_slope

BOUND = 64
"""Combinations of members and batch size whose views are kept."""


@dataclass(frozen=True, slots=True)
class _Linear:
    """A linear layer: the names of its parameters."""

    weight: str
    bias: str | None


@dataclass(frozen=True, slots=True)
class _Dropout:
    """A place where activations are dropped, at a rate of its own (``site`` counts them)."""

    site: int


_Part: TypeAlias = _Linear | _Dropout | Activation


@dataclass(frozen=True, slots=True)
class _Bound:
    """What a linear layer of some members works on with batches of one size, so that a step makes no views."""

    weight: torch.Tensor  # (k, out, in), a view into the flat parameters
    turned: torch.Tensor  # (k, in, out)
    bias: torch.Tensor | None  # (k, out, 1)
    weight_gradient: torch.Tensor  # the same places in the flat gradients
    bias_gradient: torch.Tensor | None  # (k, out)
    output: torch.Tensor  # (k, out, B)
    product: torch.Tensor  # (k, out, in): batched products need contiguous memory, which the gradient's is not
    slope: torch.Tensor | None  # (k, in, B), in the output's memory; None for the first layer, whose inputs want none


@dataclass(frozen=True, slots=True)
class DropoutRates:
    """Of k members at each of their network's sites: shape (k, sites), and what makes up for what is dropped."""

    rates: torch.Tensor
    makes_up: torch.Tensor

    @classmethod
    def of(cls, rates: torch.Tensor) -> DropoutRates:
        return cls(rates, (1.0 - rates).clamp(min=1e-6).reciprocal())


class LinearStack:
    """Loss and gradients of K stacks of linear layers.

    Args:
        network: one of them, for its structure; see ``fits``.
        parameters, gradients: views of shape (K, ...) by the network's names; gradients are written.
    """

    def __init__(
        self, network: nn.Module, parameters: Mapping[str, torch.Tensor], gradients: Mapping[str, torch.Tensor]
    ) -> None:
        found = _parts(network)
        assert found is not None
        self._parts = found
        self._first = next(index for index, part in enumerate(found) if isinstance(part, _Linear))
        self.flattens = flattens([module for _, module in leaves(network)])
        self._parameters, self._gradients = parameters, gradients
        self._memory: dict[str, torch.Tensor] = {}
        self._bound: dict[tuple[int, int, int], Sequence[_Bound | None]] = {}

    @staticmethod
    def fits(network: nn.Module) -> bool:
        """Whether ``network`` is nothing but linear layers (none of them shared), known activations and dropout,
        perhaps after a flattening."""
        tensors = [id(tensor) for _, part in leaves(network) for tensor in part.parameters()]
        return len(set(tensors)) == len(tensors) and _parts(network) is not None

    def takes(self, inputs: torch.Tensor) -> bool:
        """Whether a batch (K, B, ...) is of vectors, or is made so by the network itself."""
        return inputs.ndim == 3 or self.flattens

    @torch.no_grad()
    def outputs(self, inputs: torch.Tensor, parameters: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """What stacks with these ``parameters``, by name (n, ...), make of the same ``inputs`` (N, ...), without
        dropout: shape (n, N, outputs)."""
        models = len(next(iter(parameters.values())))
        hidden = inputs.flatten(1).T.expand(models, -1, -1)
        for part in self._parts:
            if isinstance(part, _Linear):
                weight = parameters[part.weight]
                if part.bias is None:
                    hidden = torch.bmm(weight, hidden)
                else:
                    hidden = torch.baddbmm(parameters[part.bias].unsqueeze(2), weight, hidden)
            elif isinstance(part, Activation):
                hidden = part.forward(hidden)
        return hidden.transpose(1, 2)

    @torch.no_grad()
    def loss_and_gradients(
        self,
        loss: LossName | Objective,
        rows: slice,
        inputs: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor | None,
        smoothing: torch.Tensor | None,
        dropout: DropoutRates | None,
    ) -> torch.Tensor:
        """The losses of the members ``rows``, shape (k,); their gradients go into their buffer.

        Everything given is of these members only; for shapes see ``PackedPopulation``. ``weights``, ``smoothing`` and
        ``dropout``: ``None`` = equal ones, none, none.
        """
        hidden = (inputs if inputs.ndim == 3 else inputs.flatten(2)).transpose(1, 2)
        bound = self._bind(rows, hidden.shape[2])
        kept: list[torch.Tensor | None] = []  # what each part needs on the way back
        reads: Activation | None = None  # the part that will read ``hidden`` then: it must not be overwritten
        for index, part in enumerate(self._parts):
            if (layer := bound[index]) is not None:
                kept.append(hidden)
                if layer.bias is None:
                    hidden = torch.bmm(layer.weight, hidden, out=layer.output)
                else:
                    hidden = torch.baddbmm(layer.bias, layer.weight, hidden, out=layer.output)
                reads = None
            elif isinstance(part, _Dropout):
                if dropout is None:
                    kept.append(None)
                    continue
                # Where the reader sees from its masked output what was dropped, the mask need not be kept
                seen = reads is not None and reads.survives_mask
                makes_up = dropout.makes_up[:, part.site].view(-1, 1, 1)
                mask = self._mask("mask" if seen else f"mask {index}", hidden, dropout.rates[:, part.site], makes_up)
                kept.append(makes_up if seen else mask)
                if index > self._first and (reads is None or seen):
                    hidden = hidden.mul_(mask)
                else:
                    hidden, reads = hidden * mask, None
            elif isinstance(part, Activation):
                hidden = hidden if reads is None or part.from_input else hidden.clone()
                kept.append(hidden)
                hidden = part.forward(hidden)
                reads = None if part.from_input else part
        if isinstance(loss, Objective):
            losses, slope = loss.loss_and_slope(rows, hidden.transpose(1, 2), targets, weights)
            slope = slope.transpose(1, 2).contiguous()
        else:
            wanted = targets if loss == "cross_entropy" else targets.transpose(1, 2)
            losses, slope = loss_and_slope(loss, hidden, wanted, weights, smoothing)
        for index in range(len(self._parts) - 1, self._first - 1, -1):
            part, saved = self._parts[index], kept[index]
            if saved is None:
                continue
            if (layer := bound[index]) is not None:
                layer.weight_gradient.copy_(torch.bmm(slope, saved.transpose(1, 2), out=layer.product))
                if layer.bias_gradient is not None:
                    torch.sum(slope, dim=2, out=layer.bias_gradient)
                if layer.slope is not None:
                    slope = torch.bmm(layer.turned, slope, out=layer.slope)
            elif isinstance(part, Activation):
                part.backward(slope, saved)
            else:
                slope.mul_(saved)
        return losses

    def _bind(self, rows: slice, batch: int) -> Sequence[_Bound | None]:
        """For each part that is a linear layer, what it works on."""
        key = (rows.start, rows.stop, batch)
        if key not in self._bound:
            if len(self._bound) >= BOUND:
                self._bound.clear()
            self._bound[key] = [
                self._bind_layer(index, part, rows, batch) if isinstance(part, _Linear) else None
                for index, part in enumerate(self._parts)
            ]
        return self._bound[key]

    def _bind_layer(self, index: int, layer: _Linear, rows: slice, batch: int) -> _Bound:
        weight = self._parameters[layer.weight][rows]
        members, outputs, inputs = weight.shape
        wants_slope = index > self._first
        wide = max(outputs, inputs) if wants_slope else outputs
        room = self._room(f"layer {index}", (members, wide, batch), weight).view(-1)

        def part(*shape: int) -> torch.Tensor:
            return room[: math.prod(shape)].view(shape)

        return _Bound(
            weight=weight,
            turned=weight.transpose(1, 2),
            bias=None if layer.bias is None else self._parameters[layer.bias][rows].unsqueeze(2),
            weight_gradient=self._gradients[layer.weight][rows],
            bias_gradient=None if layer.bias is None else self._gradients[layer.bias][rows],
            output=part(members, outputs, batch),
            product=self._room("product", weight.shape, weight),
            slope=part(members, inputs, batch) if wants_slope else None,
        )

    def _room(self, name: str, shape: Sequence[int], like: torch.Tensor) -> torch.Tensor:
        """Memory that is used again in each step: fresh pages cost as much as the arithmetic."""
        size = math.prod(shape)
        held = self._memory.get(name)
        if held is None or held.numel() < size:
            self._memory[name] = held = like.new_empty(size)
        return held[:size].view(shape)

    def _mask(self, name: str, hidden: torch.Tensor, rates: torch.Tensor, makes_up: torch.Tensor) -> torch.Tensor:
        """Which activations are kept, times what makes up for the others. Members share the draw and differ in the
        rate: independent masks would cost more than the product that they follow."""
        draw = torch.rand(hidden.shape[1:], dtype=hidden.dtype, device=hidden.device)
        mask = torch.ge(draw, rates.view(-1, 1, 1), out=self._room(name, hidden.shape, hidden))
        return mask.mul_(makes_up)


def _parts(network: nn.Module) -> list[_Part] | None:
    """What the stack is made of; ``None`` where something else is in it, or no linear layer."""
    parts: list[_Part] = []
    sites: dict[int, int] = {}
    modules = leaves(network)
    for index, (name, module) in enumerate(modules):
        if type(module) is nn.Identity or (index == 0 and len(modules) > 1 and flattens([module])):
            continue
        if type(module) is PackedDropout:
            sites.setdefault(id(module), len(sites))
            parts.append(_Dropout(sites[id(module)]))
        elif type(module) is nn.Linear:
            parts.append(_Linear(f"{name}weight", None if module.bias is None else f"{name}bias"))
        elif any(isinstance(part, _Linear) for part in parts) and (found := activation(module)) is not None:
            parts.append(found)
        else:
            return None
    return parts if any(isinstance(part, _Linear) for part in parts) else None


def leaves(network: nn.Module, prefix: str = "") -> Sequence[tuple[str, nn.Module]]:
    """The modules of nested ``Sequential``s in order, with the prefix of their parameters' names."""
    if type(network) is not nn.Sequential:
        return [(prefix, network)]
    found: list[tuple[str, nn.Module]] = []
    for name, child in network._modules.items():  # named_children() leaves out what comes a second time
        assert child is not None
        found += leaves(child, f"{prefix}{name}.")
    return found


def flattens(parts: Sequence[nn.Module]) -> bool:
    first = parts[0] if parts else None
    return isinstance(first, nn.Flatten) and (first.start_dim, first.end_dim) == (1, -1)
