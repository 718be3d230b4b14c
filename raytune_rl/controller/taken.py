"""What reports led to, before anybody has decided: the middle of a controller's step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raytune_rl.controller.islands import Surroundings
from raytune_rl.mdp.state import MemberState
from raytune_rl.records import Decision, Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """Reports of one moment and what came of them, one entry per report in each tuple.

    Attributes:
        reports: what was said.
        opened: the decisions that had opened the reported segments.
        states: the members' states now.
        observations: what is seen of them now, float32 of shape (F,) each.
        rewards: what the segments are paid.
        endings: why a member's episode ends here (``failed``, ``done``, ``budget``, ``stopped``), if it does.
        surroundings: what each member that has reported sees of the others.
    """

    reports: tuple[Report, ...]
    opened: tuple[Decision, ...]
    states: tuple[MemberState, ...]
    observations: tuple[np.ndarray, ...]
    rewards: tuple[float, ...]
    endings: tuple[str | None, ...]
    surroundings: tuple[Surroundings, ...]

    @property
    def terminated(self) -> tuple[bool, ...]:
        """Whose episode ended in a state that is its end: a failure, or because the candidate was finished."""
        return tuple(ending in ("failed", "done") for ending in self.endings)

    @property
    def truncated(self) -> tuple[bool, ...]:
        """Whose episode was cut off."""
        return tuple(ending in ("budget", "stopped") for ending in self.endings)
