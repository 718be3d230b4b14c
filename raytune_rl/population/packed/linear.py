"""Stacks of linear layers by hand: batched matrix products forward and backward, without a graph.

``vmap`` serves any network, but for small ones most of its time is book-keeping. A ``Sequential`` of linear layers,
activations and dropout needs two products per layer and direction, and their gradients can go straight into the flat
buffer that the optimiser reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import nn

from raytune_rl.population.packed.layers import PackedDropout

LossName: TypeAlias = Literal["cross_entropy", "mse", "binary_cross_entropy"]

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
        for name, module in _leaves(network):
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
        """Whether ``network`` is nothing but linear layers, known activations, dropout and a flattening at first."""
        parts = [module for _, module in _leaves(network)]
        while parts and isinstance(parts[0], nn.Flatten):
            parts = parts[1:]
        known = (nn.Linear, PackedDropout, nn.Identity, *_ACTIVATIONS)
        return any(isinstance(part, nn.Linear) for part in parts) and all(type(part) in known for part in parts)

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
        losses, slope = _loss_and_slope(loss, hidden, targets, weights, smoothing)
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


def _loss_and_slope(
    loss: LossName, outputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, smoothing: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The losses, shape (K,), and their gradient with respect to ``outputs`` (K, B, C)."""
    if loss == "cross_entropy":
        logs = F.log_softmax(outputs, dim=2)
        chosen = targets.unsqueeze(2)
        smooth = smoothing.unsqueeze(1)
        each = -(1.0 - smooth) * logs.gather(2, chosen).squeeze(2) - smooth * logs.mean(dim=2)
        slope = logs.exp().sub_((smooth / outputs.shape[2]).unsqueeze(2))
        slope.scatter_add_(2, chosen, (smooth - 1.0).unsqueeze(2).expand(*targets.shape, 1))
        slope.mul_(weights.unsqueeze(2))
    else:
        width = outputs[0, 0].numel()
        outputs, targets = outputs.flatten(2), targets.reshape(*outputs.shape[:2], -1)
        if loss == "mse":
            off = outputs - targets
            each, slope = (off * off).mean(dim=2), off * (2.0 / width)
        else:
            each = F.binary_cross_entropy_with_logits(outputs, targets, reduction="none").mean(dim=2)
            slope = (torch.sigmoid(outputs) - targets) / width
        slope = slope * weights.unsqueeze(2)
    return (each * weights).sum(dim=1), slope


def _leaves(network: nn.Module, prefix: str = "") -> Sequence[tuple[str, nn.Module]]:
    """The modules of nested ``Sequential``s in order, with the prefix of their parameters' names."""
    if type(network) is not nn.Sequential:
        return [(prefix, network)]
    found: list[tuple[str, nn.Module]] = []
    for name, child in network.named_children():
        found += _leaves(child, f"{prefix}{name}.")
    return found
