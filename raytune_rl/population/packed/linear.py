"""Stacks of linear layers by hand: batched matrix products forward and backward, without a graph.

``vmap`` serves any network, but for small ones most of its time is book-keeping. A ``Sequential`` of linear layers,
activations and dropout needs two products per layer and direction, and their gradients can go straight into the flat
buffer that the optimiser reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from raytune_rl.population.packed.layers import PackedDropout
from raytune_rl.population.packed.losses import LossName, loss_and_slope

_ACTIVATIONS: dict[type[nn.Module], tuple[Callable[[torch.Tensor], torch.Tensor], Callable[..., torch.Tensor]]] = {
    nn.ReLU: (torch.relu, lambda slope, out: slope * (out > 0)),
    nn.Tanh: (torch.tanh, lambda slope, out: slope * (1.0 - out * out)),
    nn.Sigmoid: (torch.sigmoid, lambda slope, out: slope * (out * (1.0 - out))),
}
"""The function, and what it makes of a gradient, told from its own output."""


@dataclass(frozen=True, slots=True)
class _Linear:
    weight: torch.Tensor  # (K, out, in), a view into the flat parameters
    bias: torch.Tensor | None
    weight_gradient: torch.Tensor  # the same places in the flat gradients
    bias_gradient: torch.Tensor | None


class LinearStack:
    """Loss and gradients of K stacks of linear layers.

    Args:
        network: one of them, for its structure; see ``fits``.
        parameters, gradients: views of shape (K, ...) by the network's names; gradients are written.
        dropout: rates, shape (K,), read at each call.
    """

    def __init__(
        self,
        network: nn.Module,
        parameters: dict[str, torch.Tensor],
        gradients: dict[str, torch.Tensor],
        dropout: torch.Tensor,
    ) -> None:
        self._dropout = dropout
        self._parts: list[_Linear | nn.Module] = []
        self._flattens = flattens([module for _, module in leaves(network)])
        for name, module in leaves(network):
            if isinstance(module, nn.Linear):
                self._parts.append(
                    _Linear(
                        parameters[f"{name}weight"],
                        parameters.get(f"{name}bias"),
                        gradients[f"{name}weight"],
                        gradients.get(f"{name}bias"),
                    )
                )
            else:
                self._parts.append(module)

    @staticmethod
    def fits(network: nn.Module) -> bool:
        """Whether ``network`` is nothing but linear layers (none of them shared), known activations and dropout,
        perhaps after a flattening."""
        parts = [module for _, module in leaves(network)]
        parts = parts[1:] if flattens(parts) else parts
        known = (nn.Linear, PackedDropout, nn.Identity, *_ACTIVATIONS)
        linear = [part for part in parts if type(part) is nn.Linear]
        tensors = [id(tensor) for part in linear for tensor in part.parameters()]
        return bool(linear) and len(set(tensors)) == len(tensors) and all(type(part) in known for part in parts)

    def takes(self, inputs: torch.Tensor) -> bool:
        """Whether a batch (K, B, ...) is of vectors, or is made so by the network itself."""
        return inputs.ndim == 3 or self._flattens

    @torch.no_grad()
    def loss_and_gradients(
        self,
        loss: LossName,
        inputs: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
        smoothing: torch.Tensor,
    ) -> torch.Tensor:
        """The losses, shape (K,); the gradients go into their buffer. For shapes see ``PackedPopulation.step``."""
        hidden = inputs.flatten(2)
        drops = bool(self._dropout.any())
        kept: list[torch.Tensor | None] = []  # what each part needs on the way back
        for part in self._parts:
            if isinstance(part, _Linear):
                kept.append(hidden)
                turned = part.weight.transpose(1, 2)
                hidden = (
                    torch.bmm(hidden, turned)
                    if part.bias is None
                    else torch.baddbmm(part.bias.unsqueeze(1), hidden, turned)
                )
            elif isinstance(part, PackedDropout):
                mask = self._mask(hidden) if drops else None
                kept.append(mask)
                hidden = hidden if mask is None else hidden * mask
            elif type(part) in _ACTIVATIONS:
                hidden = _ACTIVATIONS[type(part)][0](hidden)
                kept.append(hidden)
            else:
                kept.append(None)
        losses, slope = loss_and_slope(loss, hidden, targets, weights, smoothing)
        first = next(index for index, part in enumerate(self._parts) if isinstance(part, _Linear))
        for index in range(len(self._parts) - 1, first - 1, -1):
            part, saved = self._parts[index], kept[index]
            if isinstance(part, _Linear):
                assert saved is not None
                part.weight_gradient.copy_(torch.bmm(slope.transpose(1, 2), saved))
                if part.bias_gradient is not None:
                    part.bias_gradient.copy_(slope.sum(dim=1))
                if index > first:
                    slope = torch.bmm(slope, part.weight)
            elif saved is not None:
                back = _ACTIVATIONS[type(part)][1] if type(part) in _ACTIVATIONS else torch.mul
                slope = back(slope, saved)
        return losses

    def _mask(self, hidden: torch.Tensor) -> torch.Tensor:
        """Which activations are kept, times what makes up for the others. Members share the draw and differ in the
        rate: independent masks would cost more than the product that they follow."""
        rate = self._dropout.view(-1, 1, 1)
        draw = torch.rand(hidden.shape[1:], dtype=hidden.dtype, device=hidden.device)
        return (draw >= rate) / (1.0 - rate).clamp(min=1e-6)


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
