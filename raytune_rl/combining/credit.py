"""What a population's predictions are worth together, and what each member adds to that.

Scores are -ln(loss + 0.02), the scale of ``mdp.score``; nobody's is 0. All members predict the same examples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from raytune_rl.combining.losses import Array, Evidence, Floats, Kind
from raytune_rl.mdp.score import OFFSET
from raytune_rl.mdp.standing import Standing

PICKS: Final = 8
"""Members that the greedy ensemble has at most, repetitions counted."""


@dataclass(frozen=True, eq=False)
class Jury:
    """The right answers to the examples that members report their predictions for.

    Attributes:
        targets: classes (rows,), or values (rows, outputs).
        kind: of the task, see ``combining.losses``.
    """

    targets: Array
    kind: Kind

    def evidence(self, predictions: Array) -> Evidence:
        """Of predictions (members, rows, outputs)."""
        return Evidence.of(predictions, self.targets, self.kind)

    @property
    def spread(self) -> float:
        """The unit of distances between predictions: 1 for shares, else the targets' standard deviation."""
        return float(np.std(self.targets)) or 1.0 if self.kind == "regression" else 1.0


def score(losses: Floats | float) -> Floats:
    """-ln(loss + 0.02); of an infinite loss minus infinity."""
    with np.errstate(divide="ignore"):
        found: Floats = -np.log(np.asarray(losses) + OFFSET)
    return found


def leave_one_out(evidence: Evidence) -> Floats:
    """v(all) - v(all without k) for each of K >= 1 members, (K,): v = score of the uniform ensemble, of nobody 0.

    Not the Shapley value, which pays a copier half of its source's merit: who predicts what the others predict on
    average adds nothing, and gets nothing.
    """
    count = len(evidence)
    total = evidence.values.sum(axis=0)
    together = score(evidence.losses_of(total[None] / count))
    if count == 1:
        return together
    return together - score(evidence.losses_of((total - evidence.values) / (count - 1)))


def greedy_weights(evidence: Evidence, picks: int = PICKS) -> Floats:
    """Greedy selection with replacement (Caruana et al. 2004): each member's share, (K,), sums to 1.

    The best member first, then whoever helps most, until nobody does or there are ``picks``.
    """
    counts = np.zeros(len(evidence))
    total, reached = np.zeros_like(evidence.values[0]), np.inf
    for size in range(1, picks + 1):
        losses = evidence.losses_of((total + evidence.values) / size)
        chosen = int(losses.argmin())
        if size > 1 and not losses[chosen] < reached:
            break
        reached, total = float(losses[chosen]), total + evidence.values[chosen]
        counts[chosen] += 1
    shares: Floats = counts / counts.sum()
    return shares


def greedy_score(evidence: Evidence, picks: int = PICKS) -> float:
    """The score of the greedy ensemble of K >= 1 members."""
    return float(score(evidence.loss(greedy_weights(evidence, picks))))


def distances(one: Array, predictions: Array) -> Floats:
    """From one prediction (rows, outputs) to each of K (K, rows, outputs): the root mean over the rows of the squared
    Euclidean distance of their outputs, (K,); 0 to its like. For shares it is at most the square root of 2."""
    off = (predictions - one).reshape(len(predictions), -1)
    found: Floats = np.sqrt(np.einsum("ij,ij->i", off, off) / len(one)).astype(np.float64)
    return found


def standings(evidence: Evidence, between: Floats, differing: Floats) -> list[Standing]:
    """The standing of each of K >= 1 members.

    Args:
        evidence: of their predictions.
        between: the ``distances`` of all pairs, (K, K).
        differing: their disagreements, (K, K), see ``diversity.disagreements``.
    """
    count = len(evidence)
    pairs = max(count - 1, 1)
    weights, contributions = greedy_weights(evidence), leave_one_out(evidence)
    single, uniform = evidence.losses(), evidence.loss(np.full(count, 1.0 / count))
    away = between.sum(axis=1) / pairs
    nearest = (between + np.diag(np.full(count, np.inf))).min(axis=1) if count > 1 else np.zeros(1)
    shared = {
        "spread": float(away.mean()),
        "greedy": float(score(evidence.loss(weights))),
        "uniform": float(score(uniform)),
        "best": float(score(single.min())),
        "disagreement": float(differing.sum() / (count * pairs)),
        "ambiguity": max(float(single.mean()) - uniform, 0.0),
    }
    return [
        Standing(
            contribution=float(contributions[index]),
            weight=float(weights[index]),
            distance=float(away[index]),
            nearest=float(nearest[index]),
            **shared,
        )
        for index in range(count)
    ]
