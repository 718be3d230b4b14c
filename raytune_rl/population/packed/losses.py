"""The loss of each member on its own batch, in a form that batches, with its own label smoothing.

``torch``'s losses average over a batch. Here members may have batches of different sizes in one padded tensor, so an
example has a *weight*: 1 / the member's batch size, 0 for padding; ``None`` means that all are 1 / B.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional as F

from raytune_rl.population.evaluation import Loss

_PER_EXAMPLE = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.BCEWithLogitsLoss)
Values = Mapping[str, torch.Tensor]


class PackedLoss:
    """The loss of one member as a function that ``vmap`` takes: ``loss(outputs, targets, weight, settings)``.

    Args:
        loss: as in ``TorchTask``; a mean over the examples.
        targets: of the train split.
        names: the settings that members may have different.

    Attributes:
        pads: whether batches may be padded; otherwise every call must see a batch without padding.
    """

    def __init__(self, loss: Loss, targets: torch.Tensor, names: frozenset[str]) -> None:
        self._loss = copy.deepcopy(loss) if isinstance(loss, nn.Module) else loss
        self._names = names
        self.classes = type(loss) is nn.CrossEntropyLoss and loss.reduction == "mean"
        self.plain_classes = self.classes and _plain(loss, targets)
        self.squares = type(loss) is nn.MSELoss and loss.reduction == "mean"
        self._single = type(loss) in _PER_EXAMPLE and getattr(loss, "reduction", "") == "mean"
        self.pads = self.classes or self._single

    def __call__(
        self, outputs: torch.Tensor, targets: torch.Tensor, weight: torch.Tensor | None, settings: Values
    ) -> torch.Tensor:
        """One member's loss: outputs and targets (B, ...), weight (B,), settings by name, each a scalar tensor."""
        loss = self._loss
        if self.classes:
            assert isinstance(loss, nn.CrossEntropyLoss)
            return cross_entropy(loss, outputs, targets, weight, settings.get("label_smoothing"))
        if not isinstance(loss, nn.Module):
            return functools.partial(loss, **settings)(outputs, targets).reshape(())
        if settings:
            loss = copy.copy(loss)
            for name, value in settings.items():
                setattr(loss, name, value)
        if weight is None or not self._single:
            return loss(outputs, targets).reshape(())
        loss = copy.copy(loss)
        loss.reduction = "none"
        each = loss(outputs, targets).flatten(1).mean(1) if outputs.ndim > 1 else loss(outputs, targets)
        return (each * weight).sum()


def cross_entropy(
    loss: nn.CrossEntropyLoss,
    outputs: torch.Tensor,
    targets: torch.Tensor,
    weight: torch.Tensor | None,
    smoothing: torch.Tensor | None,
) -> torch.Tensor:
    """``loss(outputs, targets)`` with a tensor for the label smoothing, which ``torch`` does not take."""
    if smoothing is None:
        smoothing = torch.as_tensor(loss.label_smoothing, dtype=outputs.dtype, device=outputs.device)
    classes = outputs.shape[1]
    logs = F.log_softmax(outputs, dim=1)
    examples = None if weight is None else (weight > 0).to(outputs).view(-1, *[1] * (outputs.ndim - 2))
    weights = loss.weight
    per_class = logs if weights is None else logs * weights.view(-1, *[1] * (outputs.ndim - 2))
    if targets.is_floating_point():
        wanted = targets * (1 - smoothing) + smoothing / classes
        each = -(per_class * wanted).sum(1)
        return each.mean() if examples is None else (each * examples).sum() / examples.expand_as(each).sum()
    counted = (targets != loss.ignore_index).to(outputs)
    known = targets.clamp(min=0)
    taken = per_class.gather(1, known.unsqueeze(1)).squeeze(1)
    each = -(1 - smoothing) * taken - smoothing / classes * per_class.sum(1)
    share = counted if weights is None else counted * weights[known]
    if examples is not None:
        counted, share = counted * examples, share * examples
    return (each * counted).sum() / share.sum()


def _plain(loss: object, targets: torch.Tensor) -> bool:
    """Integer classes, one per example, none of them weighted or ignored."""
    assert isinstance(loss, nn.CrossEntropyLoss)
    if loss.weight is not None or targets.ndim != 1 or targets.is_floating_point():
        return False
    return not bool((targets == loss.ignore_index).any())
