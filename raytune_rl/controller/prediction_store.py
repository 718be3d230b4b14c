"""The members' newest predictions, and what each member contributes to the ensemble because of them.

Predictions are large, so only the newest of each member are kept, and nothing beyond the controller sees them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from raytune_rl.combining.contribution import EvaluationTargets, distances, ensemble_stats
from raytune_rl.combining.losses import Array, Evidence, Floats
from raytune_rl.mdp.ensemble_stats import EnsembleStats
from raytune_rl.mdp.score import OFFSET
from raytune_rl.mdp.state import MemberState
from raytune_rl.records import Report


class PredictionStore:
    """The newest predictions of all members, including those that have finished: they belong to the ensemble, too.

    Comparisons between members are computed only for members with new predictions, since reports arrive one by one.

    Args:
        targets: the right answers.
    """

    def __init__(self, targets: EvaluationTargets) -> None:
        self.targets = targets
        self._members: list[int] = []
        self._predictions: Array = np.zeros((0, 0, 0), dtype=np.float32)
        self._evidence = Evidence(values=np.zeros((0, 0, 0)), kind=targets.kind)
        self._distances: Floats = np.zeros((0, 0))
        self._disagreements: Floats = np.zeros((0, 0))

    @property
    def predictions(self) -> dict[int, Array]:
        """By member, float32 of shape (rows, outputs)."""
        return dict(zip(self._members, self._predictions.copy(), strict=True))

    def update(self, reports: Sequence[Report]) -> None:
        """Store new predictions. A member whose segment failed, or that predicts NaN, is removed."""
        sound = {r.member: r.predictions for r in reports if r.status == "ok" and _finite(r.predictions)}
        removed = {report.member for report in reports} - sound.keys()
        if removed & set(self._members) or sound.keys() - set(self._members):
            kept = {member: predicted for member, predicted in self.predictions.items() if member not in removed}
            self.set_predictions({**kept, **sound})  # type: ignore[dict-item]
        elif sound:
            self._replace({self._members.index(member): predicted for member, predicted in sound.items()})

    def set_predictions(self, predictions: Mapping[int, Array]) -> None:
        """Replace everything by these predictions."""
        self._members = sorted(predictions)
        count = len(self._members)
        self._distances, self._disagreements = np.zeros((count, count)), np.zeros((count, count))
        if count:
            self._predictions = np.stack([predictions[member] for member in self._members])
            self._evidence = self.targets.evidence(self._predictions)
            self._compare(range(count))

    def ensemble_stats(self) -> dict[int, EnsembleStats]:
        """By member, for all members that are in the ensemble now."""
        if not self._members:
            return {}
        stats = ensemble_stats(self._evidence, self._distances, self._disagreements)
        return dict(zip(self._members, stats, strict=True))

    def _replace(self, predictions: Mapping[int, Array | None]) -> None:
        """Store new predictions of known members, by their index here."""
        for index, predicted in predictions.items():
            self._predictions[index] = predicted
        indices = list(predictions)
        self._evidence.values[indices] = self.targets.evidence(self._predictions[indices]).values
        self._compare(indices)

    def _compare(self, indices: Iterable[int]) -> None:
        """Compute the rows and columns ``indices`` of both tables of pairs."""
        classes = self._predictions.argmax(axis=2) if self.targets.kind != "regression" else None
        for index in indices:
            distance = distances(self._predictions[index], self._predictions) / self.targets.spread
            disagreement = distance if classes is None else np.mean(classes != classes[index], axis=1)
            for table, row in ((self._distances, distance), (self._disagreements, disagreement)):
                table[index], table[:, index] = row, row


def _finite(predictions: Array | None) -> bool:
    return predictions is not None and bool(np.isfinite(predictions).all())


def with_ensemble_stats(
    before: MemberState, after: MemberState, stats: EnsembleStats | None, incumbent_score: float | None
) -> MemberState:
    """``after`` with its ensemble statistics and their changes since ``before``.

    Args:
        before, after: the member's states before and after its report.
        stats: its statistics now; ``None`` if it is not in the ensemble: then it keeps those it had.
        incumbent_score: the incumbent's score, if there is an incumbent.
    """
    earlier = before.ensemble or EnsembleStats()
    score = earlier.incumbent if incumbent_score is None else incumbent_score
    return replace(after, ensemble=(stats or earlier).after(earlier, incumbent=score))


def with_ensemble_metrics(report: Report, state: MemberState) -> Report:
    """The report as others see it: with measures of the ensemble among its metrics, without predictions.

    The measures are ``ensemble_loss`` and ``ensemble_uniform_loss`` (of the greedy and the uniform ensemble),
    ``ensemble_disagreement``, ``ensemble_ambiguity`` and ``ensemble_contribution`` (``mdp.ensemble_stats``).
    """
    stats = state.ensemble
    if stats is None or report.status != "ok":
        return report if report.predictions is None else replace(report, predictions=None)
    measures = {
        "ensemble_loss": math.exp(-stats.greedy) - OFFSET,
        "ensemble_uniform_loss": math.exp(-stats.uniform) - OFFSET,
        "ensemble_disagreement": stats.disagreement,
        "ensemble_ambiguity": stats.ambiguity,
        "ensemble_contribution": stats.contribution,
    }
    return replace(report, predictions=None, metrics={**report.metrics, **measures})
