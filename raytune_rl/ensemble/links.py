"""What is averaged: how a network's outputs become predictions, and a mean of predictions an output again.

A member's outputs are what its loss takes, logits mostly. The ensemble's are of the same kind, so that the same loss
and the same metrics judge both: the logarithm of the averaged probabilities where a member gives logits.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias, get_args

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

_TINY = float(np.finfo(np.float32).tiny)


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


def joined(outputs: torch.Tensor, weights: torch.Tensor, link: Link) -> torch.Tensor:
    """The ensemble's outputs of its members' (K, N, ...), with ``weights`` (K,). Few operations: at a batch of one they
    are the price of an ensemble."""
    flat = (len(outputs), -1)
    if link == "sigmoid":  # in log space, since close to 1 a probability has no digits left for its logit
        shares = weights.log().unsqueeze(1)
        yes, no = F.logsigmoid(outputs).reshape(flat) + shares, F.logsigmoid(-outputs).reshape(flat) + shares
        return (torch.logsumexp(yes, dim=0) - torch.logsumexp(no, dim=0)).view(outputs.shape[1:])
    if link in ("identity", "probability"):
        return (weights.unsqueeze(0) @ outputs.reshape(flat)).view(outputs.shape[1:])
    each = torch.softmax(outputs, dim=2) if link == "softmax" else outputs.exp()
    # not torch.mv: torch 2.13 writes a wrong ONNX program for it
    return (weights.unsqueeze(0) @ each.reshape(flat)).clamp_min(_TINY).log().view(outputs.shape[1:])


def finished(outputs: torch.Tensor, calibration: Calibration, link: Link) -> torch.Tensor:
    """The ensemble's outputs (N, ...), calibrated; see ``read_as`` for which are."""
    return calibrated(outputs, calibration, binary=link == "sigmoid")


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
