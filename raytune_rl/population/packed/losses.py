"""Losses of all members at once, with hand-written gradients with respect to the outputs.

The same formulas serve however the outputs were computed (hand-written stack or ``vmap``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol, TypeAlias

import torch
import torch.nn.functional as F
from torch import nn

LossName: TypeAlias = Literal["cross_entropy", "mse", "binary_cross_entropy"]


def feature_major(values: torch.Tensor) -> torch.Tensor:
    """(K, B, features, ...) or (K, B) as a view (K, features, B, ...), the layout that ``loss_and_grad`` expects."""
    return values.transpose(1, 2) if values.ndim > 2 else values.unsqueeze(1)


def loss_and_grad(
    loss: LossName,
    outputs: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor | None = None,
    smoothing: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The losses of K members and their gradients with respect to the outputs, by torch's own formulas.

    Args:
        loss: its name.
        outputs: shape (K, features, B, ...); for cross entropy the features are the classes.
        targets: like the outputs; for cross entropy the classes, shape (K, B, ...).
        weights: of the examples in their member's mean, shape (K, B); ``None`` = all equal.
        smoothing: label smoothing of cross entropy, shape (K,); ``None`` = none.

    Returns:
        The losses, shape (K,), and the gradient in new memory, contiguous where the outputs are.
    """
    if loss == "cross_entropy":
        log_probs, classes = F.log_softmax(outputs, dim=1), targets.unsqueeze(1)
        values, grad_at_target = log_probs.gather(1, classes).neg_(), outputs.new_full((), -1.0)
        if smoothing is not None:
            smooth = smoothing.view(-1, *[1] * (outputs.ndim - 1))
            values.mul_(1.0 - smooth).sub_(log_probs.mean(dim=1, keepdim=True).mul_(smooth))
            grad_at_target = smooth - 1.0
        grad = log_probs.exp_()
        if smoothing is not None:
            grad.sub_(smooth / outputs.shape[1])
        grad.scatter_add_(1, classes, grad_at_target.expand_as(classes))
    elif loss == "mse":
        grad = outputs - targets
        values = grad * grad
        grad.mul_(2.0)
    else:
        values = F.binary_cross_entropy_with_logits(outputs, targets, reduction="none")
        grad = torch.sigmoid(outputs).sub_(targets)
    if weights is None:
        share = 1.0 / values[0].numel()
        return values.flatten(1).sum(dim=1).mul_(share), grad.mul_(share)
    scalar = values.ndim == 3 and values.shape[1] == 1  # one value per example: nothing to average
    per_example = values.squeeze(1) if scalar else values.transpose(1, 2).flatten(2).mean(dim=2)
    shares = (weights / values[0, :, 0].numel()).view(len(values), 1, -1, *[1] * (outputs.ndim - 3))
    return (per_example * weights).sum(dim=1), grad.mul_(shares)


def named_loss(loss: Callable[..., torch.Tensor]) -> LossName | None:
    """The name of a loss that ``loss_and_grad`` computes with all its settings, ``None`` for any other."""
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
    """An object with a member's loss, a function of (outputs, targets), which may be replaced at any time."""

    loss: Callable[..., torch.Tensor]


class MemberLosses:
    """Losses without a hand-written gradient: each member's own function, called for its own outputs and
    differentiated by autograd, up to the outputs only.

    Args:
        holders: one per member.
    """

    def __init__(self, holders: Sequence[HasLoss]) -> None:
        self.holders = holders

    def loss_and_grad(
        self, rows: slice, outputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Losses (k,) of the members ``rows`` and their gradient with respect to ``outputs``, shape (k, B, ...).
        Examples of weight zero, which come last, are left out; the others count the same."""
        leaf = outputs.detach().requires_grad_()
        sizes = [outputs.shape[1]] * len(outputs) if weights is None else [int(n) for n in (weights > 0).sum(1)]
        with torch.enable_grad():
            losses = torch.stack(
                [
                    holder.loss(leaf[row, :size], targets[row, :size]).reshape(())
                    for row, (holder, size) in enumerate(zip(self.holders[rows], sizes, strict=True))
                ]
            )
            (grad,) = torch.autograd.grad(losses.sum(), leaf)
        return losses.detach(), grad
