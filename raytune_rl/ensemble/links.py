"""What is averaged: how a network's outputs become predictions, and a mean of predictions an output again.

A member's outputs are what its loss takes, logits mostly. The ensemble's are of the same kind, so that the same loss
and the same metrics judge both: the logarithm of the averaged probabilities where a member gives logits.
"""

from __future__ import annotations

import math
from typing import Final, Literal, TypeAlias, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from raytune_rl.combining.calibration import Calibration
from raytune_rl.combining.losses import Array, Kind
from raytune_rl.population.calibrating import calibrated
from raytune_rl.population.evaluation import Loss, classes_first
from raytune_rl.population.predictions import known_loss, related_loss

Link: TypeAlias = Literal["softmax", "sigmoid", "log", "probability", "identity"]
"""``softmax``: class scores along dimension 1, averaged as probabilities; ``sigmoid``: logits, the same; ``log``: log
probabilities along dimension 1; ``probability``: probabilities of yes; ``identity``: values or scores, averaged as they
are."""
LINKS: tuple[Link, ...] = get_args(Link)

UNCALIBRATED: Final = Calibration()


def task_of(loss: Loss, outputs: torch.Tensor, targets: torch.Tensor, kind: Kind | None) -> tuple[Kind, Link] | None:
    """The kind of the task and what is averaged, by the loss and the shapes; None where they do not tell.

    Args:
        loss: as the user gave it.
        outputs: of a network, (N, ...).
        targets: that belong to them.
        kind: what the user says about it.
    """
    if kind in ("matching", "regression"):
        return kind, "identity"
    name = known_loss(loss)
    if name == "binary_cross_entropy":
        return "classification", "sigmoid"
    if isinstance(loss, nn.BCELoss) or loss is F.binary_cross_entropy:
        return "classification", "probability"
    if classes_first(outputs, targets) and outputs.is_floating_point():
        found: Kind = kind or ("classification" if targets.ndim == 1 else "generation")
        if isinstance(loss, nn.NLLLoss) or loss is F.nll_loss:
            return found, "log"
        if name == "cross_entropy" or kind is not None:
            return found, "softmax"
    values = related_loss(loss) == "mse" and outputs.shape == targets.shape
    return ("regression", "identity") if values else None


def read_as(loss: Loss, kind: Kind, link: Link) -> Link | None:
    """How outputs become the probabilities that the model and the ensemble of a run calibrate, each in the same way;
    None where they are left alone.

    Scores of candidates are averaged as scores, but the cross entropy reads them through a softmax and determines them
    up to a constant per row: calibrated, as log probabilities, they say no less and rank alike. Under any other loss
    they need not be a distribution.
    """
    if kind == "matching":
        return "softmax" if known_loss(loss) == "cross_entropy" else None
    return link if link in ("softmax", "sigmoid", "log") else None


def predictions(outputs: torch.Tensor, link: Link) -> Array:
    """Outputs (N, ...) as ``combining.losses`` takes them: shape (rows, outputs), a row per token of a sequence or per
    label of several."""
    found = outputs.detach().cpu().double()
    if link in ("sigmoid", "probability"):
        right = (torch.sigmoid(found) if link == "sigmoid" else found).reshape(-1)
        return torch.stack([1.0 - right, right], dim=1).numpy()
    if link == "identity":
        return found.reshape(len(found), -1).numpy()
    found = torch.softmax(found, dim=1) if link == "softmax" else found.exp()
    return found.movedim(1, -1).reshape(-1, found.shape[1]).numpy()


def answers(targets: torch.Tensor, kind: Kind, link: Link) -> Array:
    """The targets that belong to ``predictions``. Soft binary targets count as the class that they are nearer to."""
    found = targets.detach().cpu()
    if kind == "regression":
        return found.double().reshape(len(found), -1).numpy()
    if link in ("sigmoid", "probability"):
        found = found > 0.5
    return found.reshape(-1).numpy().astype(np.int64)


def combined(
    outputs: torch.Tensor,
    shares: torch.Tensor,
    link: Link,
    calibration: Calibration = UNCALIBRATED,
    least: torch.Tensor | None = None,
) -> torch.Tensor:
    """The ensemble's outputs (N, ...) of its members' (K, N, ...), calibrated (see ``read_as`` for which are). Few
    operations: at a batch of one they are the price of an ensemble.

    Args:
        shares: the members' weights, shape (1, K).
        least: ``least_probability`` of these outputs, where the caller has kept it.
    """
    if link in ("softmax", "log"):
        each = torch.softmax(outputs, dim=2) if link == "softmax" else outputs.exp()
        # not torch.mv: torch 2.13 writes a wrong ONNX program for it
        mean = torch.mm(shares, each.flatten(1))
        if outputs.ndim != 3:
            mean = mean.view(outputs.shape[1:])
        elif torch.compiler.is_compiling() or outputs.size(1) != 1:  # an export must not come upon the number of rows
            mean = mean.view(-1, outputs.size(2))
        return _log_calibrated(mean, calibration, least_probability(outputs, calibration) if least is None else least)
    if link == "sigmoid":  # in log space, since close to 1 a probability has no digits left for its logit
        logs, flat = shares.log().mT, (len(outputs), -1)
        yes, no = F.logsigmoid(outputs).view(flat) + logs, F.logsigmoid(-outputs).view(flat) + logs
        joined = (torch.logsumexp(yes, dim=0) - torch.logsumexp(no, dim=0)).view(outputs.shape[1:])
        return calibrated(joined, calibration, binary=True)
    mean = torch.mm(shares, outputs.flatten(1)).view(outputs.shape[1:])
    return calibrated(mean, calibration, binary=False)


def least_probability(outputs: torch.Tensor, calibration: Calibration) -> torch.Tensor:
    """The lowest probability that a class of ``outputs`` (K, N, classes, ...) can have, shape (): its part of the
    uniform distribution that is mixed in, or what still has a logarithm."""
    return outputs.new_full((), max(calibration.uniform / outputs.shape[2], torch.finfo(outputs.dtype).tiny))


def _log_calibrated(mean: torch.Tensor, calibration: Calibration, least: torch.Tensor) -> torch.Tensor:
    """``calibrating.calibrated`` for probabilities (N, classes, ...) instead of their logarithms: half the calls.
    Overwrites them."""
    kept = 1.0 - calibration.uniform
    if mean.requires_grad:  # the slope of a root is infinite at 0
        mean = mean.clamp_min(torch.finfo(mean.dtype).tiny)
    if calibration.temperature == 1.0:
        return torch.add(least, mean, alpha=kept).log_()
    powers = mean.pow_(1.0 / calibration.temperature)
    return torch.addcdiv(least, powers, powers.sum(1, True), value=kept).log_()


def checked_link(name: object) -> Link:
    """``name`` if it is one. Raises ``ValueError``."""
    for link in LINKS:
        if name == link:
            return link
    raise ValueError(f"{name!r} is not what an ensemble averages; that is one of {', '.join(LINKS)}.")


def checked_weights(weights: object, count: int) -> list[float]:
    """Weights as a file gives them. Raises ``ValueError`` unless there are ``count``, above 0 and summing to 1."""
    found = weights if isinstance(weights, list) else []
    sound = all(isinstance(w, int | float) and w > 0 for w in found) and len(found) == count > 0
    if not sound or not math.isclose(sum(found), 1.0, abs_tol=1e-6):
        raise ValueError(f"the weights of {count} members must be positive and sum to 1, not {weights!r}.")
    return [float(weight) for weight in found]
