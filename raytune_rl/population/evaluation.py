"""Evaluates a network on a split: the loss as the user gave it, and metrics of all outputs at once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

import torch
from torch import nn

from raytune_rl.population.splits import Split

Loss: TypeAlias = Callable[..., torch.Tensor]
"""``loss(outputs, targets)`` -> a scalar tensor; further keywords can be hyperparameters."""
Metric: TypeAlias = Callable[[torch.Tensor, torch.Tensor], float | torch.Tensor]
"""``metric(outputs, targets)`` of a whole split, on the CPU."""
Autocast: TypeAlias = Callable[[], AbstractContextManager[Any]]
"""Makes the context for a forward pass, see ``precision.py``."""

BATCH = 1024
_ELEMENTWISE = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss)


IGNORE_INDEX = -100
"""The target that torch's losses of classes leave out by default."""


def accuracy(outputs: torch.Tensor, targets: torch.Tensor, ignored: int = IGNORE_INDEX) -> torch.Tensor:
    """Share of right answers, from class scores (N, C, ...) and integer classes (N, ...), of those targets that are not
    ``ignored``, as padding is; NaN if all are."""
    counted = targets != ignored
    return ((outputs.argmax(dim=1) == targets) & counted).sum() / counted.sum()


def binary_accuracy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Share of logits on the right side of zero; targets 0 or 1, of the same shape."""
    return ((outputs > 0) == (targets > 0.5)).float().mean()


def default_metrics(loss: Loss, outputs: torch.Tensor, targets: torch.Tensor) -> Mapping[str, Metric]:
    """Accuracy for a classification, recognised by the loss and the shapes; nothing for anything else."""
    if isinstance(loss, nn.BCEWithLogitsLoss):
        return {"accuracy": binary_accuracy}
    if not classes_first(outputs, targets):
        return {}
    settings = loss.keywords if isinstance(loss, functools.partial) else getattr(loss, "__dict__", {})
    return {"accuracy": functools.partial(accuracy, ignored=settings.get("ignore_index", IGNORE_INDEX))}


def classes_first(outputs: torch.Tensor, targets: torch.Tensor) -> bool:
    """Whether outputs are scores with the classes in dimension 1, (N, C, ...), and targets integer classes (N, ...), as
    ``nn.CrossEntropyLoss`` takes them."""
    shape = (*outputs.shape[:1], *outputs.shape[2:])
    return not targets.is_floating_point() and outputs.ndim > 1 and shape == targets.shape


def evaluate(
    network: nn.Module,
    split: Split,
    *,
    loss: Loss,
    metrics: Mapping[str, Metric] | None,
    prefix: str,
    device: torch.device,
    autocast: Autocast = nullcontext,
) -> dict[str, float]:
    """``<prefix>_loss`` and ``<prefix>_<metric>`` of ``network`` on ``split``; leaves the network in eval mode.

    ``autocast`` applies to the network only; loss and metrics get float32.
    """
    outputs = outputs_of(network, split, device=device, autocast=autocast)
    return measure(outputs, split, loss=loss, metrics=metrics, prefix=prefix)


def outputs_of(
    network: nn.Module, split: Split, *, device: torch.device, autocast: Autocast = nullcontext
) -> torch.Tensor:
    """The outputs of ``network`` for all inputs, computed in batches; floats are converted to float32. Leaves the
    network in eval mode."""
    network.eval()
    with torch.no_grad():
        with autocast():
            parts = [
                network(split.rows(slice(first, first + BATCH), device)[0]) for first in range(0, len(split), BATCH)
            ]
        outputs = torch.cat(parts)
        return outputs.float() if outputs.is_floating_point() else outputs


def measure(
    outputs: torch.Tensor, split: Split, *, loss: Loss, metrics: Mapping[str, Metric] | None, prefix: str
) -> dict[str, float]:
    """``<prefix>_loss`` and ``<prefix>_<metric>`` of a network's outputs for ``split``.

    The loss is computed over all outputs at once, so losses with class weights or ignored targets are exact. If it is
    not finite, the metrics are NaN and are not called, as many of them raise on such outputs.
    """
    with torch.no_grad():
        targets = split.targets.to(outputs.device)
        value = float(loss(outputs, targets))
        if metrics is None:
            metrics = default_metrics(loss, outputs, targets)
        outputs, targets = outputs.cpu(), targets.cpu()
        finite = torch.isfinite(torch.tensor(value)).item()
        scores = {
            name: _score(name, metric, outputs, targets) if finite else float("nan") for name, metric in metrics.items()
        }
    return {f"{prefix}_loss": value} | {f"{prefix}_{name}": score for name, score in scores.items()}


def rehearse(
    network: nn.Module, split: Split, *, loss: Loss, device: torch.device, autocast: Autocast = nullcontext
) -> None:
    """Try network and loss on two examples; raise ``ValueError`` with one sentence if they do not fit the data.

    Also catches a mistake that torch only warns about: outputs (N, 1) and targets (N,) broadcast to a wrong loss.
    """
    network.eval()
    inputs, targets = split.rows(slice(0, 2), device)
    given = f"inputs {_shape(inputs)} and targets {_shape(targets)}"
    with torch.no_grad(), autocast():
        try:
            outputs = network(inputs)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise ValueError(f"The network cannot take {given}: {_on_one_line(error)}") from error
        if not isinstance(outputs, torch.Tensor):
            raise ValueError(f"The network must return one tensor, not a {type(outputs).__name__}, for {given}.")
        if isinstance(loss, _ELEMENTWISE) and outputs.shape != targets.shape:
            raise ValueError(
                f"{type(loss).__name__} needs outputs in the shape of the targets, not {_shape(outputs)} for {given}."
            )
        try:
            value: Any = loss(outputs, targets)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise ValueError(
                f"The loss cannot take outputs {_shape(outputs)} for {given}: {_on_one_line(error)}"
            ) from error
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        raise ValueError("The loss must return one number as a tensor, the mean over the batch.")


def _score(name: str, metric: Metric, outputs: torch.Tensor, targets: torch.Tensor) -> float:
    """The metric's value. Raises ``ValueError`` with one sentence if the metric fails or returns no number."""
    try:
        value = metric(outputs, targets)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise ValueError(
            f"The metric {name!r} cannot take outputs {_shape(outputs)} and targets {_shape(targets)}: "
            f"{_on_one_line(error)}"
        ) from error
    try:
        return float(value)
    except (RuntimeError, TypeError, ValueError) as error:
        returned = _shape(value) if isinstance(value, torch.Tensor) else type(value).__name__
        raise ValueError(f"The metric {name!r} must return one number, not {returned}.") from error


def _shape(tensor: torch.Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _on_one_line(error: Exception) -> str:
    return " ".join(str(error).split())
