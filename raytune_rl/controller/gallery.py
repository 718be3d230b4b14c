"""What the members predict now, and what each of them is to the ensemble because of it.

Predictions are large, so the newest of each member are kept and nothing else, and they go no further than here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from raytune_rl.combining.credit import Jury, distances, standings
from raytune_rl.combining.losses import Array, Evidence, Floats
from raytune_rl.mdp.score import OFFSET
from raytune_rl.mdp.standing import Standing
from raytune_rl.mdp.state import MemberState
from raytune_rl.records import Report


class Gallery:
    """The newest predictions of all members, those that have finished included: they belong to the ensemble, too.

    What compares members is worked out for those that have new predictions only, since reports come one by one.

    Args:
        jury: the right answers.
    """

    def __init__(self, jury: Jury) -> None:
        self.jury = jury
        self._members: list[int] = []
        self._predictions: Array = np.zeros((0, 0, 0), dtype=np.float32)
        self._evidence = Evidence(values=np.zeros((0, 0, 0)), kind=jury.kind)
        self._between: Floats = np.zeros((0, 0))
        self._differing: Floats = np.zeros((0, 0))

    @property
    def predictions(self) -> dict[int, Array]:
        """By member, float32 of shape (rows, outputs)."""
        return dict(zip(self._members, self._predictions.copy(), strict=True))

    def take(self, reports: Sequence[Report]) -> None:
        """Keep what the reports predict; whose segment went wrong, or who predicts NaN, leaves the ensemble."""
        sound = {r.member: r.predictions for r in reports if r.status == "ok" and _finite(r.predictions)}
        gone = {report.member for report in reports} - sound.keys()
        if gone & set(self._members) or sound.keys() - set(self._members):
            kept = {member: shown for member, shown in self.predictions.items() if member not in gone}
            self.set_predictions({**kept, **sound})  # type: ignore[dict-item]
        elif sound:
            self._replace({self._members.index(member): shown for member, shown in sound.items()})

    def set_predictions(self, predictions: Mapping[int, Array]) -> None:
        """Forget all, and keep these."""
        self._members = sorted(predictions)
        count = len(self._members)
        self._between, self._differing = np.zeros((count, count)), np.zeros((count, count))
        if count:
            self._predictions = np.stack([predictions[member] for member in self._members])
            self._evidence = self.jury.evidence(self._predictions)
            self._compare(range(count))

    def standings(self) -> dict[int, Standing]:
        """Of all members that are in the ensemble now."""
        if not self._members:
            return {}
        return dict(zip(self._members, standings(self._evidence, self._between, self._differing), strict=True))

    def _replace(self, shown: Mapping[int, Array | None]) -> None:
        """New predictions, by index."""
        for index, predictions in shown.items():
            self._predictions[index] = predictions
        indices = list(shown)
        self._evidence.values[indices] = self.jury.evidence(self._predictions[indices]).values
        self._compare(indices)

    def _compare(self, indices: Iterable[int]) -> None:
        classes = self.jury.kind != "regression"
        answers = self._predictions.argmax(axis=2) if classes else None
        for index in indices:
            away = distances(self._predictions[index], self._predictions) / self.jury.spread
            differing = away if answers is None else np.mean(answers != answers[index], axis=1)
            for table, row in ((self._between, away), (self._differing, differing)):
                table[index], table[:, index] = row, row


def _finite(predictions: Array | None) -> bool:
    return predictions is not None and bool(np.isfinite(predictions).all())


def placed(before: MemberState, after: MemberState, team: Standing | None, incumbent: float | None) -> MemberState:
    """``after`` with its standing. Who is not in the ensemble (``team=None``) keeps the one it had.

    Args:
        before, after: the member's states before and after its report.
        team: its standing now.
        incumbent: the incumbent's score, if there is one.
    """
    had = before.team or Standing()
    now = (team or had).after(had, incumbent=had.incumbent if incumbent is None else incumbent)
    return replace(after, team=now)


def told(report: Report, state: MemberState) -> Report:
    """The report as others see it: measures of the ensemble among its metrics, and no predictions.

    ``ensemble_loss`` and ``ensemble_uniform_loss`` (of the greedy and the uniform ensemble), ``ensemble_disagreement``,
    ``ensemble_ambiguity`` and ``ensemble_contribution`` (``mdp.standing``).
    """
    team = state.team
    if team is None or report.status != "ok":
        return report if report.predictions is None else replace(report, predictions=None)
    measures = {
        "ensemble_loss": math.exp(-team.greedy) - OFFSET,
        "ensemble_uniform_loss": math.exp(-team.uniform) - OFFSET,
        "ensemble_disagreement": team.disagreement,
        "ensemble_ambiguity": team.ambiguity,
        "ensemble_contribution": team.contribution,
    }
    return replace(report, predictions=None, metrics={**report.metrics, **measures})
