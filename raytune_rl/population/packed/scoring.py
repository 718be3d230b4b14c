"""What each member is worth on a split, for all members at once where the loss and the metrics are the usual ones."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import nn

from raytune_rl.population.evaluation import Loss, Metric, accuracy, binary_accuracy, default_metrics

_PER_EXAMPLE = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.BCEWithLogitsLoss)


def score(
    outputs: torch.Tensor, targets: torch.Tensor, *, loss: Loss, metrics: Mapping[str, Metric] | None
) -> dict[str, torch.Tensor]:
    """``loss`` and metrics of outputs (K, N, ...) against targets (N, ...): shape (K,), double precision, CPU."""
    outputs = outputs.float() if outputs.is_floating_point() else outputs
    values = losses(outputs, targets, loss).double().cpu()
    finite = torch.isfinite(values)
    if metrics is None:
        metrics = default_metrics(loss, outputs[0], targets)
    found = {"loss": values}
    for name, metric in metrics.items():
        if metric is accuracy:
            scores = (outputs.argmax(2) == targets).double().flatten(1).mean(1).cpu()
        elif metric is binary_accuracy:
            scores = ((outputs > 0) == (targets > 0.5)).double().flatten(1).mean(1).cpu()
        else:
            rows, truth = outputs.cpu(), targets.cpu()
            pairs = zip(rows, finite, strict=True)
            scores = torch.tensor([float(metric(row, truth)) if sound else torch.nan for row, sound in pairs]).double()
        found[name] = torch.where(finite, scores, torch.nan)
    return found


def losses(outputs: torch.Tensor, targets: torch.Tensor, loss: Loss) -> torch.Tensor:
    """The loss of each member, shape (K,)."""
    kind = type(loss)
    if kind is nn.CrossEntropyLoss and outputs.ndim == 3 and targets.ndim == 1 and _plain(loss):
        assert isinstance(loss, nn.CrossEntropyLoss)
        logs = torch.log_softmax(outputs.transpose(1, 2), dim=1)
        taken = logs.gather(1, targets.expand(len(outputs), 1, -1)).squeeze(1).mean(1)
        if loss.label_smoothing == 0:
            return -taken
        return -(1 - loss.label_smoothing) * taken - loss.label_smoothing * logs.mean(1).mean(1)
    if kind in _PER_EXAMPLE and getattr(loss, "reduction", "") == "mean":
        each = copy.copy(loss)
        each.reduction = "none"  # type: ignore[attr-defined]
        return each(outputs, targets.expand(len(outputs), *targets.shape)).flatten(1).mean(1)
    return torch.stack([loss(row, targets).reshape(()) for row in outputs])


def _plain(loss: nn.CrossEntropyLoss) -> bool:
    return loss.reduction == "mean" and loss.weight is None and loss.ignore_index < 0
