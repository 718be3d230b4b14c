"""Training of linear stacks without autograd: passes of ``stack.py``, loss and its slope by hand where it is simple."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from raytune_rl.population.packed.layout import Layout
from raytune_rl.population.packed.losses import PackedLoss
from raytune_rl.population.packed.masks import Masks
from raytune_rl.population.packed.settings import Settings
from raytune_rl.population.packed.stack import Dropout, Operation, Stack, infer

EVALUATED = 2**18
"""About so many numbers per layer are in work at once when the population is evaluated."""


class LinearEngine:
    """Gradients of linear stacks (``Engine``)."""

    pads = True
    chunk_bytes = 2**21

    def __init__(self, operations: Sequence[Operation], layout: Layout, loss: PackedLoss, masks: Masks) -> None:
        self._operations = operations
        self._layout = layout
        self._loss = loss
        self._masks = masks
        self._stacks: dict[tuple[int, int], Stack] = {}

    @property
    def sites(self) -> int:
        return sum(isinstance(operation, Dropout) for operation in self._operations)

    def begin(
        self,
        rows: slice,
        parameters: torch.Tensor,
        gradient: torch.Tensor,
        settings: Settings,
        names: Sequence[tuple[int, int]],
        batch: int,
    ) -> None:
        members = len(parameters)
        key = (members, batch)
        if key not in self._stacks:
            if len(self._stacks) > 4:
                self._stacks.clear()
            self._stacks[key] = Stack(self._operations, self._layout, members=members, batch=batch, like=parameters)
        self._stack = self._stacks[key]
        gradient.zero_()  # the gaps between parameters
        self._stack.bind(parameters, gradient)
        self._masks.begin(settings.dropout[rows], self._stack.site_shapes, names)
        smoothing = settings.label_smoothing[rows]
        self._smoothing = smoothing.to(parameters)[:, None, None] if bool((smoothing != 0).any()) else None
        self._kept = -(1 - smoothing).to(parameters)[:, None, None].expand(members, 1, batch)
        self._values = {name: value[rows].to(parameters) for name, value in settings.loss.items()}
        if self._loss.classes:
            self._values["label_smoothing"] = smoothing.to(parameters)

    def gradient(self, inputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
        """Fills the gradient, returns the losses; inputs (members, B, ...), targets (members, B, ...)."""
        inputs = inputs.flatten(2)
        masks = self._masks.draw()
        outputs = self._stack.forward(inputs, masks)
        if self._loss.plain_classes:
            losses, slope = self._classes(outputs, targets, weights)
        elif self._loss.squares and not self._values and targets.ndim == 3:
            losses, slope = self._squares(outputs, targets, weights)
        else:
            losses, slope = self._any(outputs, targets, weights)
        self._stack.backward(inputs, slope, masks)
        return losses

    def outputs(self, parameters: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        """In evaluation mode for shared inputs (N, ...): shape (members, N, features), a view of another order."""
        inputs = inputs.flatten(1)
        widest = max(leaf.shape[0] for leaf in self._layout.leaves)
        rows = max(1, EVALUATED // (len(parameters) * widest))
        parts = [infer(self._operations, self._layout, parameters, part) for part in inputs.split(rows)]
        return (torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]).transpose(1, 2)

    def _classes(
        self, outputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        classes, batch = outputs.shape[1:]
        wanted = targets.unsqueeze(1)
        logs = torch.log_softmax(outputs, dim=1)
        each = logs.gather(1, wanted)
        slope = torch.exp(logs, out=outputs)
        if self._smoothing is None:
            each = -each.squeeze(1)
        else:
            each = (each * self._kept - logs.sum(1, keepdim=True) * (self._smoothing / classes)).squeeze(1)
            slope -= self._smoothing / classes
        slope.scatter_add_(1, wanted, self._kept)
        if weights is None:
            return each.mean(1), slope.mul_(1 / batch)
        return (each * weights).sum(1), slope.mul_(weights.unsqueeze(1))

    def _squares(
        self, outputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        features, batch = outputs.shape[1:]
        slope = torch.sub(outputs, targets.transpose(1, 2), out=outputs)
        if weights is None:
            return slope.square().mean((1, 2)), slope.mul_(2 / (features * batch))
        each = slope.square() * weights.unsqueeze(1)
        return each.sum((1, 2)) / features, slope.mul_(weights.unsqueeze(1) * (2 / features))

    def _any(
        self, outputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Any other loss: autograd, but of the outputs only."""
        leaf = outputs.transpose(1, 2).detach().clone().requires_grad_()
        with torch.enable_grad():
            losses = batched_losses(self._loss, leaf, targets, weights, self._values)
            (slope,) = torch.autograd.grad(losses.sum(), leaf)
        return losses.detach(), slope.transpose(1, 2).contiguous()


def batched_losses(
    loss: PackedLoss,
    outputs: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor | None,
    values: Mapping[str, torch.Tensor],
) -> torch.Tensor:
    """Each member's loss: everything has a first dimension of members."""
    where = (0, 0, None if weights is None else 0, {name: 0 for name in values})
    answer: torch.Tensor = torch.vmap(loss, in_dims=where)(outputs, targets, weights, dict(values))
    return answer
