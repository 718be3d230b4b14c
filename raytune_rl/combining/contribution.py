"""The score of a population's ensembles, and each member's contribution to it.

Scores are -ln(loss + 0.02), the scale of ``mdp.score``; an ensemble without members scores 0. All members predict the
same examples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from raytune_rl.combining.losses import Array, Evidence, Floats, Kind
from raytune_rl.mdp.ensemble_stats import EnsembleStats
from raytune_rl.mdp.score import OFFSET

PICKS: Final = 8
"""Largest size of the greedy ensemble, counting repetitions."""


@dataclass(frozen=True, eq=False)
class EvaluationTargets:
    """The targets of the examples that members predict, for the evaluation of their ensembles.

    Attributes:
        targets: classes (rows,), or values (rows, outputs).
        kind: of the task, see ``combining.losses``.
    """

    targets: Array
    kind: Kind

    def evidence(self, predictions: Array) -> Evidence:
        """The evidence of predictions (members, rows, outputs), from which losses are computed."""
        return Evidence.of(predictions, self.targets, self.kind)

    @property
    def spread(self) -> float:
        """The unit of distances between predictions: for a regression the targets' standard deviation (1 if that is 0),
        otherwise 1."""
        return float(np.std(self.targets)) or 1.0 if self.kind == "regression" else 1.0


def score(losses: Floats | float) -> Floats:
    """-ln(loss + 0.02); minus infinity for an infinite loss."""
    with np.errstate(divide="ignore"):
        scores: Floats = -np.log(np.asarray(losses) + OFFSET)
    return scores


def leave_one_out(evidence: Evidence) -> Floats:
    """v(all) - v(all without k) for each of K >= 1 members, (K,), where v is the score of the uniform ensemble.

    This is not the Shapley value, which would give a copy half of the value of its source. Here a member that predicts
    the others' average adds nothing, and gets 0.
    """
    count = len(evidence)
    total = evidence.values.sum(axis=0)
    together = score(evidence.losses_of(total[None] / count))
    if count == 1:
        return together
    return together - score(evidence.losses_of((total - evidence.values) / (count - 1)))


def greedy_weights(evidence: Evidence, picks: int = PICKS) -> Floats:
    """Greedy ensemble selection with replacement (Caruana et al. 2004): the members' weights (K,), which sum to 1.

    It begins with the best member and repeatedly adds the one that helps most, until none helps or ``picks`` were
    added.
    """
    counts = np.zeros(len(evidence))
    total, lowest = np.zeros_like(evidence.values[0]), np.inf
    for size in range(1, picks + 1):
        losses = evidence.losses_of((total + evidence.values) / size)
        chosen = int(losses.argmin())
        if size > 1 and not losses[chosen] < lowest:
            break
        lowest, total = float(losses[chosen]), total + evidence.values[chosen]
        counts[chosen] += 1
    weights: Floats = counts / counts.sum()
    return weights


def distances(prediction: Array, others: Array) -> Floats:
    """Root mean square distances of a prediction (rows, outputs) to K others (K, rows, outputs), (K,).

    The mean is over the rows, of the squared Euclidean distance of their outputs. Between probabilities a distance is
    at most the square root of 2.
    """
    differences = (others - prediction).reshape(len(others), -1)
    squares = np.einsum("ij,ij->i", differences, differences)
    root_means: Floats = np.sqrt(squares / len(prediction)).astype(np.float64)
    return root_means


def ensemble_stats(evidence: Evidence, pair_distances: Floats, disagreements: Floats) -> list[EnsembleStats]:
    """The statistics of each of K >= 1 members.

    Args:
        evidence: of their predictions.
        pair_distances: the ``distances`` of all pairs, (K, K).
        disagreements: ``diversity.disagreements`` of all pairs, (K, K).
    """
    count = len(evidence)
    pairs = max(count - 1, 1)
    weights, contributions = greedy_weights(evidence), leave_one_out(evidence)
    single, uniform = evidence.losses(), evidence.loss(np.full(count, 1.0 / count))
    mean_distances = pair_distances.sum(axis=1) / pairs
    nearest = (pair_distances + np.diag(np.full(count, np.inf))).min(axis=1) if count > 1 else np.zeros(1)
    shared = {
        "spread": float(mean_distances.mean()),
        "greedy": float(score(evidence.loss(weights))),
        "uniform": float(score(uniform)),
        "best": float(score(single.min())),
        "disagreement": float(disagreements.sum() / (count * pairs)),
        "ambiguity": max(float(single.mean()) - uniform, 0.0),
    }
    return [
        EnsembleStats(
            contribution=float(contributions[index]),
            weight=float(weights[index]),
            distance=float(mean_distances[index]),
            nearest=float(nearest[index]),
            **shared,
        )
        for index in range(count)
    ]
