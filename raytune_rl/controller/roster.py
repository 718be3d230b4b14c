"""The members' pasts and their open episodes, kept in step: what winds one of them back winds back the other."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from raytune_rl.controller.ledger import Ledger
from raytune_rl.controller.taken import Taken
from raytune_rl.mdp.episode import EpisodeBuffer
from raytune_rl.mdp.state import MemberState
from raytune_rl.records import Chunk, Report

logger = logging.getLogger(__name__)


class Roster:
    """All members that have ever joined, by index."""

    def __init__(self) -> None:
        self._ledgers: dict[int, Ledger] = {}  # in the order of their indices
        self._episodes = EpisodeBuffer()

    def __contains__(self, member: int) -> bool:
        return member in self._ledgers

    def __getitem__(self, member: int) -> Ledger:
        """The member's past. Raises ``KeyError`` for one that has not joined."""
        return self._ledgers[member]

    def join(self, member: int, ledger: Ledger) -> None:
        self._ledgers = dict(sorted({**self._ledgers, member: ledger}.items()))

    @property
    def states(self) -> dict[int, MemberState]:
        """The newest state of every member, in the order of their indices."""
        return {index: ledger.state for index, ledger in self._ledgers.items()}

    @property
    def alive(self) -> tuple[MemberState, ...]:
        """The newest states of those that go on training."""
        return tuple(state for state in self.states.values() if state.alive)

    # -- what happens to members ---------------------------------------------------------------------------------------

    def rewound(self, report: Report) -> MemberState:
        """The member's state before the report, wound back (or forward) to where the report says it was. Who reports is
        alive."""
        ledger = self._ledgers[report.member]
        if ledger.state.segment != report.segment:
            logger.info("member %d goes on from segment %d", report.member, report.segment)
            self._episodes.rewind(report.member, report.segment)
            ledger.rewind(report.segment)
        if not ledger.state.alive:
            ledger.push(replace(ledger.state, alive=True))
        return ledger.state

    def lost(self, members: Iterable[int]) -> None:
        """Their trial died and will come again from its last checkpoint."""
        for member in members:
            self._ledgers[member].lost += 1

    def drop(self, members: Iterable[int]) -> None:
        """They are gone for good."""
        for member in members:
            if member in self._ledgers:
                ledger = self._ledgers[member]
                ledger.push(replace(ledger.state, alive=False))
                self._episodes.close(member)

    # -- episodes ------------------------------------------------------------------------------------------------------

    def collect(self, taken: Taken) -> None:
        """Add the transitions of those whose segment a policy had decided about."""
        for report, decision, reward, observation, terminated, truncated in zip(
            taken.reports,
            taken.opened,
            taken.rewards,
            taken.observations,
            taken.terminated,
            taken.truncated,
            strict=True,
        ):
            if decision.action:
                self._episodes.add(
                    decision,
                    reward,
                    tuple(observation.tolist()),
                    episode=f"{report.member}-{self._ledgers[report.member].episode}",
                    terminated=terminated,
                    truncated=truncated,
                )

    def break_off(self, member: int) -> None:
        """End the member's episode where it stands; its next transition begins another one."""
        self._episodes.close(member)

    def drain(self) -> Sequence[Chunk]:
        """Hand out the transitions that have come together."""
        return self._episodes.drain()

    # -- keeping it ----------------------------------------------------------------------------------------------------

    def get_state(self, *, sparse: bool = False) -> dict[str, Any]:
        """Plain data and records; see ``Ledger.to_dict`` for ``sparse``."""
        return {
            "ledgers": {index: ledger.to_dict(sparse=sparse) for index, ledger in self._ledgers.items()},
            "buffer": self._episodes.to_dict(),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        self._ledgers = {index: Ledger.from_dict(data) for index, data in sorted(state["ledgers"].items())}
        self._episodes = EpisodeBuffer.from_dict(state["buffer"])
