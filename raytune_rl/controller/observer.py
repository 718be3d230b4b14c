"""What is known of a population, and what a policy sees of it: reports go in, rewards and observations come out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from raytune_rl.combining.credit import Jury
from raytune_rl.controller.gallery import Gallery, placed, told
from raytune_rl.controller.incumbency import Incumbency
from raytune_rl.controller.islands import Islands, Surroundings
from raytune_rl.controller.roster import Roster
from raytune_rl.controller.taken import Taken
from raytune_rl.mdp.action import ActionSpec
from raytune_rl.mdp.observation import ObservationSpec
from raytune_rl.mdp.reward import Reward, RewardContext
from raytune_rl.mdp.score import Score
from raytune_rl.mdp.standing import Standing
from raytune_rl.mdp.state import MemberState, advance
from raytune_rl.records import Decision, Report


@dataclass(frozen=True, slots=True)
class Moment:
    """Reports that came together, one entry per report in each sequence.

    Attributes:
        reports: what was said.
        opened: the decisions that had opened the reported segments.
        before: the members' states then.
    """

    reports: Sequence[Report]
    opened: Sequence[Decision]
    before: Sequence[MemberState]


class Observer:
    """Keeps the members' pasts, the record, and what each member is to the ensemble.

    A moment is taken in two steps, between which the controller decides whose episode ends: ``enter``, all reports of
    it, so that members that report together see each other's newest state; then ``seen``.

    Args:
        roster, best: where the pasts and the record are kept, for the controller too.
        observation, actions, reward: the decision process.
        islands: which members see each other.
        segments, timed: see ``Controller``.
        jury: judges what members predict, where the objective is the ensemble.
    """

    def __init__(
        self,
        roster: Roster,
        best: Incumbency,
        *,
        observation: ObservationSpec,
        actions: ActionSpec,
        reward: Reward,
        islands: Islands,
        segments: int | None,
        timed: bool,
        jury: Jury | None,
    ) -> None:
        self.roster, self.best = roster, best
        self._observation, self._actions, self._reward = observation, actions, reward
        self._score = Score(metric=best.metric, mode=best.mode)
        self._islands = islands
        self._segments, self._timed = segments, timed
        self._gallery = None if jury is None else Gallery(jury)

    @property
    def newcomer(self) -> Standing | None:
        """The standing of a member that has not reported yet."""
        return None if self._gallery is None else Standing()

    def unstarted(self, member: int) -> MemberState:
        """A member whose start is seen by nobody yet: it knows its place and the task."""
        positions = tuple(0.5 for _ in self._observation.space.names)
        return MemberState.start(member, positions, team=self.newcomer)

    def enter(self, moment: Moment) -> None:
        """Take the reports in."""
        for report, decision in zip(moment.reports, moment.opened, strict=True):
            self._advance(report, decision)
        if self._gallery is not None:
            self._place(self._gallery, moment)

    def seen(self, moment: Moment, endings: Sequence[str | None]) -> Taken:
        """What the reports that have been entered are paid, and what is seen now; ``endings``: see ``Taken``."""
        after = [self.roster[report.member].state for report in moment.reports]
        population = self.roster.alive
        around = self._surroundings(moment.reports, population)
        rewards = [
            self._reward(b, a, self._context(report, end is not None, population))
            for b, a, report, end in zip(moment.before, after, moment.reports, endings, strict=True)
        ]
        taken = Taken(
            reports=tuple(map(told, moment.reports, after)),
            opened=tuple(moment.opened),
            states=tuple(after),
            observations=tuple(self.observe(state, there) for state, there in zip(after, around, strict=True)),
            rewards=tuple(rewards),
            endings=tuple(endings),
            surroundings=around,
        )
        self.roster.collect(taken)
        return taken

    def observe(self, state: MemberState, around: Surroundings) -> np.ndarray:
        """What a policy sees of a member, float32 of shape (F,)."""
        return self._observation.observe(
            state,
            around.crowd,
            segments=self._segments,
            incumbent_score=around.record,
            copy_allowed=self._actions.copy_allowed(state.segment),
        )

    def get_state(self, *, sparse: bool = False) -> dict[str, Any]:
        """Plain data and records; see ``Ledger.to_dict`` for ``sparse``."""
        return {
            **self.roster.get_state(sparse=sparse),
            "incumbent": self.best.holder,
            "predictions": {} if self._gallery is None else self._gallery.predictions,
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        self.roster.set_state(state)
        self.best.holder = state["incumbent"]
        if self._gallery is not None:
            self._gallery.set_predictions(state["predictions"])

    # -- inside --------------------------------------------------------------------------------------------------------

    def _advance(self, report: Report, opened: Decision) -> None:
        ledger = self.roster[report.member]
        in_force = ledger.decisions.get(report.decision) or opened
        told_of = report if self._timed else _without_times(report)
        ledger.push(advance(ledger.state, told_of, score=self._score, positions=in_force.positions))
        self.best.take(report)

    def _place(self, gallery: Gallery, moment: Moment) -> None:
        """Tell the members that have reported what they are to the ensemble now."""
        gallery.take(moment.reports)
        standings = gallery.standings()
        for state in moment.before:
            ledger = self.roster[state.member]
            ledger.push(placed(state, ledger.state, standings.get(state.member), self.best.score))

    def _context(self, report: Report, final: bool, population: tuple[MemberState, ...]) -> RewardContext:
        return RewardContext(
            final=final,
            segments=self._segments,
            seconds=report.seconds if self._timed else 0.0,
            population=population,
            incumbent_score=self.best.score,
        )

    def _surroundings(self, reports: Sequence[Report], population: Sequence[MemberState]) -> tuple[Surroundings, ...]:
        """What each of those that report sees of the others."""
        holder, score = self.best.holder, self.best.score
        record = None if holder is None or score is None else (holder.member, score)
        positions = len(self._observation.space)
        found: dict[int, Surroundings] = {}
        for island in {self._islands.of(report.member) for report in reports}:
            found[island] = self._islands.surroundings(island, population, positions=positions, record=record)
        return tuple(found[self._islands.of(report.member)] for report in reports)


def _without_times(report: Report) -> Report:
    if report.seconds == 0.0 and "train_seconds" not in report.signals:
        return report  # most of those of worlds, where copying each would cost
    signals = {name: value for name, value in report.signals.items() if name != "train_seconds"}
    return replace(report, seconds=0.0, signals=signals)
