"""Losses of all members at once, with their gradients by hand: one formula for every way of getting the outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol, TypeAlias

import torch
import torch.nn.functional as F
from torch import nn

LossName: TypeAlias = Literal["cross_entropy", "mse", "binary_cross_entropy"]


def feature_major(values: torch.Tensor) -> torch.Tensor:
    """(K, B, features, ...) or (K, B) as a view (K, features, B, ...), which is how ``loss_and_slope`` wants it."""
    return values.transpose(1, 2) if values.ndim > 2 else values.unsqueeze(1)


def loss_and_slope(
    loss: LossName,
    outputs: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor | None = None,
    smoothing: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The losses of K members and what they make of each output.

    Args:
        loss: its name; torch's own formula.
        outputs: shape (K, features, B, ...); for cross entropy the features are the classes.
        targets: like the outputs; for cross entropy the classes, shape (K, B, ...).
        weights: of the examples in their member's mean, shape (K, B); ``None`` = all equal.
        smoothing: label smoothing of cross entropy, shape (K,); ``None`` = none.

    Returns:
        The losses, shape (K,), and their gradient with respect to ``outputs``: new, contiguous where the outputs are.
    """
    if loss == "cross_entropy":
        logs, chosen = F.log_softmax(outputs, dim=1), targets.unsqueeze(1)
        each, taken = logs.gather(1, chosen).neg_(), outputs.new_full((), -1.0)
        if smoothing is not None:
            smooth = smoothing.view(-1, *[1] * (outputs.ndim - 1))
            each.mul_(1.0 - smooth).sub_(logs.mean(dim=1, keepdim=True).mul_(smooth))
            taken = smooth - 1.0
        slope = logs.exp_()
        if smoothing is not None:
            slope.sub_(smooth / outputs.shape[1])
        slope.scatter_add_(1, chosen, taken.expand_as(chosen))
    elif loss == "mse":
        slope = outputs - targets
        each = slope * slope
        slope.mul_(2.0)
    else:
        each = F.binary_cross_entropy_with_logits(outputs, targets, reduction="none")
        slope = torch.sigmoid(outputs).sub_(targets)
    if weights is None:
        share = 1.0 / each[0].numel()
        return each.flatten(1).sum(dim=1).mul_(share), slope.mul_(share)
    means = each.squeeze(1) if each.ndim == 3 and each.shape[1] == 1 else each.transpose(1, 2).flatten(2).mean(dim=2)
    shares = (weights / each[0, :, 0].numel()).view(len(each), 1, -1, *[1] * (outputs.ndim - 3))
    return (means * weights).sum(dim=1), slope.mul_(shares)


def named_loss(loss: Callable[..., torch.Tensor]) -> LossName | None:
    """The name of a loss that ``loss_and_slope`` knows with all its settings, ``None`` for any other."""
    if type(loss) is nn.CrossEntropyLoss:
        plain = loss.weight is None and loss.reduction == "mean" and loss.ignore_index < 0
        return "cross_entropy" if plain else None
    if type(loss) is nn.MSELoss:
        return "mse" if loss.reduction == "mean" else None
    if type(loss) is nn.BCEWithLogitsLoss:
        plain = loss.weight is None and loss.pos_weight is None and loss.reduction == "mean"
        return "binary_cross_entropy" if plain else None
    return None


class HasLoss(Protocol):
    """Whoever holds a member's loss, a function of (outputs, targets) that may be exchanged at any time."""

    loss: Callable[..., torch.Tensor]


class Objective:
    """Any other loss: each member's own is called for its own outputs, and differentiated by those alone.

    Args:
        holders: one per member.
    """

    def __init__(self, holders: Sequence[HasLoss]) -> None:
        self.holders = holders

    def loss_and_slope(
        self, rows: slice, outputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Losses (k,) of the members ``rows`` and their gradient by ``outputs``, shape (k, B, ...). An example without
        weight is left out."""
        leaf = outputs.detach().requires_grad_()
        sizes = [outputs.shape[1]] * len(outputs) if weights is None else [int(n) for n in (weights > 0).sum(1)]
        with torch.enable_grad():
            losses = torch.stack(
                [
                    holder.loss(leaf[row, :size], targets[row, :size]).reshape(())
                    for row, (holder, size) in enumerate(zip(self.holders[rows], sizes, strict=True))
                ]
            )
            (slope,) = torch.autograd.grad(losses.sum(), leaf)
        return losses.detach(), slope
