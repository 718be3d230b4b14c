"""What the controller remembers of its members: their past states, their decisions and their open episodes.

A member that restarts from an older checkpoint repeats some segments. States and decisions are therefore kept by
segment, so that the observations and rewards of the second time start from exactly what held the first time.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from raytune_rl.controller.step_inputs import StepInputs
from raytune_rl.mdp.ensemble_stats import EnsembleStats
from raytune_rl.mdp.episode import EpisodeBuffer
from raytune_rl.mdp.state import MemberState
from raytune_rl.records import Chunk, Decision, Report

KEPT_SEGMENTS: Final = 512
"""States and decisions kept per member when nobody reports which checkpoints are durable."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class MemberHistory:
    """The past of one member.

    Attributes:
        start: the decision that opened its training.
        states: ``states[n]`` is the state after ``n`` segments, in order of ``n``.
        decisions: ``decisions[n]`` is the decision that opened segment ``n``, in order of ``n``.
        durable: the segments completed at the newest checkpoint that is safe on disk.
        durable_before: the same for the checkpoint before that.
        episode: index of the member's current episode; a restart by the failure policy begins a new one.
    """

    start: Decision
    states: dict[int, MemberState] = field(default_factory=dict)
    decisions: dict[int, Decision] = field(default_factory=dict)
    durable: int = 0
    durable_before: int = 0
    episode: int = 0

    @classmethod
    def begin(cls, start: Decision, ensemble: EnsembleStats | None = None) -> MemberHistory:
        """The history of a member that has not trained yet; ``ensemble`` as in ``MemberState.start``."""
        state = MemberState.start(start.member, start.positions, ensemble=ensemble)
        return cls(start=start, states={0: state}, decisions={start.segment: start})

    @property
    def state(self) -> MemberState:
        """The newest state."""
        return next(reversed(self.states.values()))  # they are kept in order

    def add_state(self, state: MemberState) -> None:
        """Append a state, or replace the one after the same number of segments."""
        self.states[state.segment] = state
        self._forget(state.segment - KEPT_SEGMENTS)

    def add_decision(self, decision: Decision) -> None:
        """Append the decision that opens the next segment."""
        self.decisions[decision.segment] = decision

    def mark_durable(self, segments: int) -> None:
        """A checkpoint after ``segments`` segments is safe, so the member never rewinds below the one before it."""
        self._forget(self.durable)
        if segments > self.durable:
            self.durable_before, self.durable = self.durable, segments

    def rewind(self, segments: int) -> None:
        """Go back to the state after ``segments`` segments, or the nearest older one if that is no longer kept."""
        older = [n for n in self.states if n <= segments]
        anchor = self.states[max(older)] if older else self.states[min(self.states)]
        self.states = {n: s for n, s in self.states.items() if n <= segments}
        if segments not in self.states:
            self.states[segments] = anchor.at(segments)
        self.decisions = {n: d for n, d in self.decisions.items() if n <= segments}

    def to_dict(self, *, sparse: bool = False) -> dict[str, Any]:
        """Plain data and records.

        ``sparse`` keeps only the states at the checkpoints and the newest ones, for drivers whose members restart from
        durable checkpoints only: what is saved every few seconds should not grow with the segments in between.
        """
        states, decisions = self.states, self.decisions
        if sparse:
            kept = {next(iter(states)), self.durable_before, self.durable, self._newest - 1, self._newest}
            states = {n: s for n, s in states.items() if n in kept}
            decisions = {n: d for n, d in decisions.items() if n in kept}
        return {
            "start": self.start,
            "states": {n: s.to_dict() for n, s in states.items()},
            "decisions": dict(decisions),
            "durable": self.durable,
            "durable_before": self.durable_before,
            "episode": self.episode,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MemberHistory:
        """The inverse of ``to_dict``."""
        return cls(
            start=data["start"],
            states={n: MemberState.from_dict(s) for n, s in sorted(data["states"].items())},
            decisions=dict(data["decisions"]),
            durable=data["durable"],
            durable_before=data["durable_before"],
            episode=data["episode"],
        )

    @property
    def _newest(self) -> int:
        return next(reversed(self.states))

    def _forget(self, below: int) -> None:
        below = min(below, self._newest - 1)
        for kept in (self.states, self.decisions):
            while kept and (oldest := next(iter(kept))) < below:
                del kept[oldest]


class MemberHistories:
    """The histories of all members that have ever joined, by index, and their open episodes.

    Both are rewound together: an episode must not contain a segment that its member's history no longer has.
    """

    def __init__(self) -> None:
        self._histories: dict[int, MemberHistory] = {}  # in the order of their indices
        self._episodes = EpisodeBuffer()

    def __contains__(self, member: int) -> bool:
        return member in self._histories

    def __getitem__(self, member: int) -> MemberHistory:
        """The member's history. Raises ``KeyError`` for one that has not joined."""
        return self._histories[member]

    def add(self, member: int, history: MemberHistory) -> None:
        """A member joins."""
        self._histories = dict(sorted({**self._histories, member: history}.items()))

    @property
    def states(self) -> dict[int, MemberState]:
        """The newest state of every member, in the order of their indices."""
        return {member: history.state for member, history in self._histories.items()}

    @property
    def alive(self) -> tuple[MemberState, ...]:
        """The newest states of the members that are still training."""
        return tuple(state for state in self.states.values() if state.alive)

    # -- what happens to members ---------------------------------------------------------------------------------------

    def state_before(self, report: Report) -> MemberState:
        """The member's state before the reported segment.

        The history is rewound (or moved forward) to that segment where it is elsewhere. A member that reports is alive.
        """
        history = self._histories[report.member]
        if history.state.segment != report.segment:
            logger.info("member %d goes on from segment %d", report.member, report.segment)
            self._episodes.rewind(report.member, report.segment)
            history.rewind(report.segment)
        if not history.state.alive:
            history.add_state(replace(history.state, alive=True))
        return history.state

    def drop(self, members: Iterable[int]) -> None:
        """These members will not train any more. Members that never joined are ignored."""
        for member in members:
            if member in self._histories:
                history = self._histories[member]
                history.add_state(replace(history.state, alive=False))
                self._episodes.close(member)

    # -- episodes ------------------------------------------------------------------------------------------------------

    def collect(self, inputs: StepInputs) -> None:
        """Add the transitions of the segments that a policy had decided about."""
        for report, decision, reward, observation, terminated, truncated in zip(
            inputs.reports,
            inputs.opened,
            inputs.rewards,
            inputs.observations,
            inputs.terminated,
            inputs.truncated,
            strict=True,
        ):
            if decision.action:
                self._episodes.add(
                    decision,
                    reward,
                    tuple(observation.tolist()),
                    episode=f"{report.member}-{self._histories[report.member].episode}",
                    terminated=terminated,
                    truncated=truncated,
                )

    def truncate_episode(self, member: int) -> None:
        """End the member's episode here; its next transition begins another one."""
        self._episodes.close(member)

    def drain(self) -> Sequence[Chunk]:
        """Hand out the transitions collected since the last call."""
        return self._episodes.drain()

    # -- saving --------------------------------------------------------------------------------------------------------

    def get_state(self, *, sparse: bool = False) -> dict[str, Any]:
        """Plain data and records; see ``MemberHistory.to_dict`` for ``sparse``."""
        return {
            "histories": {member: history.to_dict(sparse=sparse) for member, history in self._histories.items()},
            "buffer": self._episodes.to_dict(),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restore what ``get_state`` gave."""
        histories = sorted(state["histories"].items())
        self._histories = {member: MemberHistory.from_dict(data) for member, data in histories}
        self._episodes = EpisodeBuffer.from_dict(state["buffer"])
