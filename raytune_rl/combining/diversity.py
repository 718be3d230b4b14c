"""How much members differ, and how much an ensemble gains by it: disagreement and the ambiguity decomposition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raytune_rl.combining.losses import Array, Evidence, Floats, Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Decomposition:
    """``ensemble = members - ambiguity``.

    Attributes:
        members: the mean of the members' losses.
        ensemble: the loss of their combination.
        ambiguity: the gain from combining; at least 0, since all losses of ``losses`` are convex.
    """

    members: float
    ensemble: float
    ambiguity: float


def disagreements(predictions: Array, kind: Kind = "classification") -> Floats:
    """The disagreement of each pair of members, shape (members, members), zero on the diagonal: the share of rows that
    they answer differently (Kuncheva and Whitaker 2003), or for regression the root mean square of their difference."""
    predictions = np.asarray(predictions, dtype=np.float64)
    if kind == "regression":
        flat = predictions.reshape(len(predictions), -1)
        pairs: Floats = np.stack([np.sqrt(np.mean((flat - member) ** 2, axis=1)) for member in flat])
        return pairs
    answers = predictions.argmax(axis=2)
    shares: Floats = np.stack([np.mean(answers != member, axis=1) for member in answers])
    return shares


def disagreement(predictions: Array, kind: Kind = "classification") -> float:
    """The mean of ``disagreements`` over all pairs; 0 for a single member."""
    count = len(predictions)
    return float(disagreements(predictions, kind).sum() / (count * (count - 1))) if count > 1 else 0.0


def ambiguity(
    predictions: Array, targets: Array, kind: Kind, weights: Sequence[float] | Array | None = None
) -> Decomposition:
    """Decompose the ensemble's loss into the members' mean loss minus the gain from their differences.

    For the squared error this is the decomposition of Krogh and Vedelsby (1995, equation 6), whose ambiguity is the
    weighted variance of the members. For other losses it is Jensen's gap (Wood et al. 2023, section 4).

    Args:
        predictions: shape (members, rows, outputs), see ``losses``.
        targets: shape (rows,) or (rows, outputs).
        kind: of the task.
        weights: shape (members,), summing to 1; all equal if left out.
    """
    evidence = Evidence.of(predictions, targets, kind)
    share = np.full(len(evidence), 1.0 / len(evidence)) if weights is None else np.asarray(weights, dtype=np.float64)
    used = np.flatnonzero(share)
    members = float(share[used] @ evidence.losses()[used])
    ensemble = evidence.loss(share)
    return Decomposition(members=members, ensemble=ensemble, ambiguity=members - ensemble)
