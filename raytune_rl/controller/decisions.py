"""Makes decision records: from positions, a schedule or prescribed values to the hyperparameters that a member gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from raytune_rl.controller.failures import reduce_learning_rates
from raytune_rl.controller.policy import Choice, Prescription
from raytune_rl.controller.schedule import LearningRateSchedule, schedule_factor
from raytune_rl.hyperparameters import SearchSpace
from raytune_rl.mdp.action import Move
from raytune_rl.mdp.state import MemberState
from raytune_rl.records import FLOOR, Decision, Report, Source


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionFactory:
    """Makes the decisions of one run. Pure: what follows from a decision is the controller's business.

    Attributes:
        space: the hyperparameters.
        schedule: of the learning rates.
        segments: length of a member's training; ``None`` = unknown.
        prescribed: values by segment that replace whatever the positions say, see ``PolicyRequirements``.
    """

    space: SearchSpace
    schedule: LearningRateSchedule
    segments: int | None
    prescribed: Prescription | None = None

    def make(
        self,
        member: int,
        segment: int,
        positions: Sequence[float],
        *,
        ignores_prescribed: bool = False,
        **fields: Any,
    ) -> Decision:
        """The decision that opens ``segment``.

        Args:
            member, segment: the member and the segment that it is for.
            positions: one in [0, 1] per hyperparameter, without the schedule.
            ignores_prescribed: whether the positions hold even where values are prescribed.
            fields: further fields of the decision.
        """
        if self.prescribed is not None and not ignores_prescribed:
            values = dict(self.prescribed[min(segment, len(self.prescribed) - 1)])
            positions = self.space.encode(values)
        else:
            values = self.space.decode(positions, factor=self._factor(segment))
        return Decision(member=member, segment=segment, hyperparameters=values, positions=tuple(positions), **fields)

    def chosen(self, member: int, segment: int, move: Move, choice: Choice, observation: np.ndarray) -> Decision:
        """A policy's decision: what its ``choice`` means (``move``), and how it came about.

        ``observation``: what the policy saw, float32 of shape (F,).
        """
        return self.make(
            member,
            segment,
            move.positions,
            ignores_prescribed=choice.ignores_prescribed,
            source=move.source,
            stop=move.stop,
            observation=tuple(observation.tolist()),
            action=choice.action,
            logp=choice.logp,
            value=choice.value,
            policy_version=choice.version,
            extras=choice.extras,
        )

    def unchanged(self, report: Report, state: MemberState) -> Decision:
        """The member goes on with the values that it has reported."""
        decision = self.make(report.member, state.segment, state.positions)
        return replace(decision, hyperparameters={**decision.hyperparameters, **report.hyperparameters})

    def rollback(self, state: MemberState) -> Decision:
        """The member returns to the weights and the values of its best segment, by the rule of ``rollback.Floor``."""
        source = Source(kind="checkpoint", member=state.member, name=FLOOR)
        return self.make(state.member, state.segment, state.best_positions, source=source)

    def restart(self, report: Report, state: MemberState, start: Decision) -> Decision:
        """A failed member restarts with the weights and values of its best segment, or as in ``start`` without one."""
        positions = state.best_positions or start.positions
        if report.status == "diverged":
            positions = reduce_learning_rates(self.space, positions, state.positions)
        source = Source(kind="checkpoint", member=report.member, name="own_best")
        return self.make(report.member, state.segment, positions, source=source)

    def stop(self, state: MemberState) -> Decision:
        """The member's training ends."""
        return self.make(state.member, state.segment, state.positions, stop=True)

    def reconstructed(self, report: Report, state: MemberState) -> Decision:
        """The decision behind a report where it is not known any more, since an older state had to be restored.

        Its positions are those of the reported values, the schedule undone, or the member's own where some are missing.
        """
        factor = self._factor(report.segment)
        scheduled = {h.name for h in self.space if h.role == "learning_rate"}
        base = {
            name: value / factor if name in scheduled else value  # type: ignore[operator]
            for name, value in report.hyperparameters.items()
        }
        known = all(name in base for name in self.space.names)
        return self.make(report.member, report.segment, self.space.encode(base) if known else state.positions)

    def _factor(self, segment: int) -> float:
        return schedule_factor(self.schedule, segment, self.segments)
