"""What the controller remembers of one member, and how that is wound back after a crash.

A member that restarts from an older checkpoint lives some segments again. The ledger keeps its states by segment, so
that observations and rewards of the second time start from exactly what was true then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from raytune_rl.mdp.state import MemberState
from raytune_rl.records import Decision

HISTORY = 512
"""States and decisions kept per member when nobody says what is durable."""


@dataclass(slots=True)
class Ledger:
    """One member's past: ``states[n]`` after ``n`` segments, ``decisions[n]`` the one that opened segment ``n``."""

    start: Decision
    states: dict[int, MemberState] = field(default_factory=dict)
    decisions: dict[int, Decision] = field(default_factory=dict)
    durable: int = 0
    episode: int = 0
    """Index of the member's present episode; a restart by the failure policy begins a new one."""
    lost: int = 0
    """Times that its trial died under it: these restarts cost the failure policy nothing."""

    @classmethod
    def begin(cls, start: Decision) -> Ledger:
        state = MemberState.start(start.member, start.positions)
        return cls(start=start, states={0: state}, decisions={start.segment: start})

    @property
    def state(self) -> MemberState:
        """The newest state."""
        return self.states[max(self.states)]

    def push(self, state: MemberState) -> None:
        self.states[state.segment] = state
        self._forget(state.segment - HISTORY)

    def open(self, decision: Decision) -> None:
        self.decisions[decision.segment] = decision

    def mark_durable(self, segments: int) -> None:
        """A checkpoint after ``segments`` segments is safe, so nobody rewinds below the one before it."""
        self._forget(self.durable)
        self.durable = max(self.durable, segments)

    def rewind(self, segments: int) -> None:
        """Go back to the state after ``segments`` segments (the nearest older one if that is forgotten)."""
        older = [n for n in self.states if n <= segments]
        anchor = self.states[max(older)] if older else self.states[min(self.states)]
        self.states = {n: s for n, s in self.states.items() if n <= segments}
        if segments not in self.states:
            self.states[segments] = anchor.at(segments)
        self.decisions = {n: d for n, d in self.decisions.items() if n <= segments}

    def to_dict(self) -> dict[str, Any]:
        return {
            "start": self.start,
            "states": {n: s.to_dict() for n, s in self.states.items()},
            "decisions": dict(self.decisions),
            "durable": self.durable,
            "episode": self.episode,
            "lost": self.lost,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Ledger:
        return cls(
            start=data["start"],
            states={n: MemberState.from_dict(s) for n, s in data["states"].items()},
            decisions=dict(data["decisions"]),
            durable=data["durable"],
            episode=data["episode"],
            lost=data["lost"],
        )

    def _forget(self, below: int) -> None:
        newest = max(self.states)
        for kept in (self.states, self.decisions):
            for n in [n for n in kept if n < below and n < newest - 1]:
                del kept[n]
