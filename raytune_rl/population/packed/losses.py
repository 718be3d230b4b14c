"""Losses of all members at once, with their gradients by hand: one formula for every way of getting the outputs."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F

LossName: TypeAlias = Literal["cross_entropy", "mse", "binary_cross_entropy"]


def loss_and_slope(
    loss: LossName, outputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, smoothing: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The losses of K members and what they make of each output.

    Args:
        loss: its name; torch's own formula.
        outputs: shape (K, B, ...); for cross entropy (K, B, classes, ...).
        targets: like the outputs; for cross entropy the classes, shape (K, B, ...).
        weights: of the examples in their member's mean, shape (K, B).
        smoothing: label smoothing of cross entropy, shape (K,).

    Returns:
        The losses, shape (K,), and their gradient with respect to ``outputs``.
    """
    if loss == "cross_entropy":
        logs, chosen = F.log_softmax(outputs, dim=2), targets.unsqueeze(2)
        smooth = smoothing.view(-1, *[1] * (outputs.ndim - 1))
        each = -(1.0 - smooth) * logs.gather(2, chosen) - smooth * logs.mean(dim=2, keepdim=True)
        slope = logs.exp().sub_(smooth / outputs.shape[2])
        slope.scatter_add_(2, chosen, (smooth - 1.0).expand_as(chosen))
    elif loss == "mse":
        off = outputs - targets
        each, slope = off * off, 2.0 * off
    else:
        each = F.binary_cross_entropy_with_logits(outputs, targets, reduction="none")
        slope = torch.sigmoid(outputs) - targets
    means = each.flatten(2).mean(dim=2) if each.ndim > 2 else each
    shares = (weights / each[0, 0].numel()).view(*weights.shape, *[1] * (outputs.ndim - 2))
    return (means * weights).sum(dim=1), slope.mul_(shares)
