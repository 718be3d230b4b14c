"""Turns reports into what a controller decides from: states, rewards and observations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from raytune_rl.combining.contribution import EvaluationTargets
from raytune_rl.controller.histories import MemberHistories
from raytune_rl.controller.incumbent import IncumbentTracker
from raytune_rl.controller.islands import Islands, IslandView
from raytune_rl.controller.prediction_store import PredictionStore, with_ensemble_metrics, with_ensemble_stats
from raytune_rl.controller.step_inputs import StepInputs
from raytune_rl.mdp.action import ActionSpec
from raytune_rl.mdp.ensemble_stats import EnsembleStats
from raytune_rl.mdp.observation import ObservationSpec
from raytune_rl.mdp.reward import Reward, RewardContext
from raytune_rl.mdp.score import Score
from raytune_rl.mdp.state import MemberState, advance
from raytune_rl.records import Decision, Report


class Observer:
    """Keeps the members' histories, the incumbent, and the members' predictions.

    Reports that arrive together are processed in two calls, between which the controller decides whose episode ends:
    ``enter`` takes in all of them, so that their members see each other's newest states; then ``step_inputs`` gives
    rewards and observations.

    Args:
        histories, tracker: where histories and the incumbent are kept; the controller uses them, too.
        observation, actions, reward: the decision process.
        islands: which members see each other.
        segments, timed: see ``Controller``.
        evaluation_targets: of the examples that members report predictions for, where the objective is the ensemble.
    """

    def __init__(
        self,
        histories: MemberHistories,
        tracker: IncumbentTracker,
        *,
        observation: ObservationSpec,
        actions: ActionSpec,
        reward: Reward,
        islands: Islands,
        segments: int | None,
        timed: bool,
        evaluation_targets: EvaluationTargets | None,
    ) -> None:
        self.histories, self.tracker = histories, tracker
        self._observation, self._actions, self._reward = observation, actions, reward
        self._score = Score(metric=tracker.metric, mode=tracker.mode)
        self._islands = islands
        self._segments, self._timed = segments, timed
        self._predictions = None if evaluation_targets is None else PredictionStore(evaluation_targets)

    @property
    def initial_ensemble_stats(self) -> EnsembleStats | None:
        """Those of a member that has not reported yet; ``None`` where the objective is not the ensemble."""
        return None if self._predictions is None else EnsembleStats()

    def unstarted(self, member: int) -> MemberState:
        """The state before a member's first decision: all positions 0.5, no reports."""
        positions = tuple(0.5 for _ in self._observation.space.names)
        return MemberState.start(member, positions, ensemble=self.initial_ensemble_stats)

    def enter(self, reports: Sequence[Report], opened: Sequence[Decision], before: Sequence[MemberState]) -> None:
        """Update histories, incumbent and predictions.

        Args:
            reports: those that arrived together.
            opened: for each, the decision that had opened the reported segment.
            before: for each, the member's state before that segment.
        """
        for report, decision in zip(reports, opened, strict=True):
            self._advance(report, decision)
        if self._predictions is None:
            return
        self._predictions.update(reports)
        stats = self._predictions.ensemble_stats()
        for state in before:
            history = self.histories[state.member]
            history.add_state(
                with_ensemble_stats(state, history.state, stats.get(state.member), self.tracker.score),
            )

    def step_inputs(
        self,
        reports: Sequence[Report],
        opened: Sequence[Decision],
        before: Sequence[MemberState],
        endings: Sequence[str | None],
    ) -> StepInputs:
        """Rewards and observations after ``enter``, of the same arguments; ``endings``: see ``StepInputs``."""
        after = [self.histories[report.member].state for report in reports]
        population = self.histories.alive
        views = self._views(reports, population)
        inputs = StepInputs(
            reports=tuple(map(with_ensemble_metrics, reports, after)),
            opened=tuple(opened),
            states=tuple(after),
            observations=tuple(self.observe(state, view) for state, view in zip(after, views, strict=True)),
            rewards=tuple(
                self._reward(old, new, self._context(report, end is not None, population))
                for old, new, report, end in zip(before, after, reports, endings, strict=True)
            ),
            endings=tuple(endings),
            views=views,
        )
        self.histories.collect(inputs)
        return inputs

    def observe(self, state: MemberState, view: IslandView) -> np.ndarray:
        """What a policy sees of a member, float32 of shape (F,)."""
        return self._observation.observe(
            state,
            view.stats,
            segments=self._segments,
            incumbent_score=view.incumbent_score,
            copy_allowed=self._actions.copy_allowed(state.segment),
        )

    def get_state(self, *, sparse: bool = False) -> dict[str, Any]:
        """Plain data and records; see ``MemberHistory.to_dict`` for ``sparse``."""
        return {
            **self.histories.get_state(sparse=sparse),
            "incumbent": self.tracker.incumbent,
            "predictions": {} if self._predictions is None else self._predictions.predictions,
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restore what ``get_state`` gave."""
        self.histories.set_state(state)
        self.tracker.incumbent = state["incumbent"]
        if self._predictions is not None:
            self._predictions.set_predictions(state["predictions"])

    # -- inside --------------------------------------------------------------------------------------------------------

    def _advance(self, report: Report, opened: Decision) -> None:
        history = self.histories[report.member]
        in_force = history.decisions.get(report.decision) or opened
        seen = report if self._timed else _without_times(report)
        history.add_state(advance(history.state, seen, score=self._score, positions=in_force.positions))
        self.tracker.update(report)

    def _context(self, report: Report, final: bool, population: tuple[MemberState, ...]) -> RewardContext:
        return RewardContext(
            final=final,
            segments=self._segments,
            seconds=report.seconds if self._timed else 0.0,
            population=population,
            incumbent_score=self.tracker.score,
        )

    def _views(self, reports: Sequence[Report], population: Sequence[MemberState]) -> tuple[IslandView, ...]:
        """What each reporting member sees of the others; one view per island, shared by its members."""
        holder, score = self.tracker.incumbent, self.tracker.score
        incumbent = None if holder is None or score is None else (holder.member, score)
        positions = len(self._observation.space)
        islands = [self._islands.of(report.member) for report in reports]
        views = {
            island: self._islands.view(island, population, positions=positions, incumbent=incumbent)
            for island in set(islands)
        }
        return tuple(views[island] for island in islands)


def _without_times(report: Report) -> Report:
    if report.seconds == 0.0 and "train_seconds" not in report.signals:
        return report  # nearly always so in packed worlds, where a copy of each report would cost
    signals = {name: value for name, value in report.signals.items() if name != "train_seconds"}
    return replace(report, seconds=0.0, signals=signals)
