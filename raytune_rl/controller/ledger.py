"""What the controller remembers of one member, and how that is wound back after a crash.

A member that restarts from an older checkpoint lives some segments again. The ledger keeps its states by segment, so
that observations and rewards of the second time start from exactly what was true then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from raytune_rl.mdp.standing import Standing
from raytune_rl.mdp.state import MemberState
from raytune_rl.records import Decision

HISTORY = 512
"""States and decisions kept per member when nobody says what is durable."""


@dataclass(slots=True)
class Ledger:
    """One member's past: ``states[n]`` after ``n`` segments, ``decisions[n]`` the one that opened segment ``n``,
    both in order of ``n``."""

    start: Decision
    states: dict[int, MemberState] = field(default_factory=dict)
    decisions: dict[int, Decision] = field(default_factory=dict)
    durable: int = 0
    durable_before: int = 0
    episode: int = 0
    """Index of the member's present episode; a restart by the failure policy begins a new one."""
    lost: int = 0
    """Times that its trial died under it: these restarts cost the failure policy nothing."""

    @classmethod
    def begin(cls, start: Decision, team: Standing | None = None) -> Ledger:
        state = MemberState.start(start.member, start.positions, team=team)
        return cls(start=start, states={0: state}, decisions={start.segment: start})

    @property
    def state(self) -> MemberState:
        """The newest state."""
        return next(reversed(self.states.values()))  # they are kept in order

    def push(self, state: MemberState) -> None:
        self.states[state.segment] = state
        self._forget(state.segment - HISTORY)

    def open(self, decision: Decision) -> None:
        self.decisions[decision.segment] = decision

    def mark_durable(self, segments: int) -> None:
        """A checkpoint after ``segments`` segments is safe, so nobody rewinds below the one before it."""
        self._forget(self.durable)
        if segments > self.durable:
            self.durable_before, self.durable = self.durable, segments

    def rewind(self, segments: int) -> None:
        """Go back to the state after ``segments`` segments (the nearest older one if that is forgotten)."""
        older = [n for n in self.states if n <= segments]
        anchor = self.states[max(older)] if older else self.states[min(self.states)]
        self.states = {n: s for n, s in self.states.items() if n <= segments}
        if segments not in self.states:
            self.states[segments] = anchor.at(segments)
        self.decisions = {n: d for n, d in self.decisions.items() if n <= segments}

    def to_dict(self, *, sparse: bool = False) -> dict[str, Any]:
        """Plain data and records. ``sparse`` leaves out what is between the checkpoints, where only these are ever
        gone back to: a ledger that is written every few seconds should not grow with what happens meanwhile."""
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
            "lost": self.lost,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Ledger:
        return cls(
            start=data["start"],
            states={n: MemberState.from_dict(s) for n, s in sorted(data["states"].items())},
            decisions=dict(data["decisions"]),
            durable=data["durable"],
            durable_before=data["durable_before"],
            episode=data["episode"],
            lost=data["lost"],
        )

    @property
    def _newest(self) -> int:
        return next(reversed(self.states))

    def _forget(self, below: int) -> None:
        below = min(below, self._newest - 1)
        for kept in (self.states, self.decisions):
            while kept and (oldest := next(iter(kept))) < below:
                del kept[oldest]
