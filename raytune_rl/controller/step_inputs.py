"""What the decisions of one controller step are made from: the first half of the step's result."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raytune_rl.controller.islands import IslandView
from raytune_rl.mdp.state import MemberState
from raytune_rl.records import Decision, Report


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInputs:
    """Reports that arrived together and what follows from them, one entry per report in each tuple.

    Attributes:
        reports: as others may see them: with measures of the ensemble, without predictions.
        opened: the decisions that had opened the reported segments.
        states: the members' states after the reports.
        observations: what a policy sees of these states, float32 of shape (F,) each.
        rewards: for the reported segments.
        endings: why a member's episode ends here (``failed``, ``done``, ``budget``, ``stopped``); ``None`` = it
            goes on.
        views: what each member sees of the others.
    """

    reports: tuple[Report, ...]
    opened: tuple[Decision, ...]
    states: tuple[MemberState, ...]
    observations: tuple[np.ndarray, ...]
    rewards: tuple[float, ...]
    endings: tuple[str | None, ...]
    views: tuple[IslandView, ...]

    @property
    def terminated(self) -> tuple[bool, ...]:
        """Whose episode reached a terminal state: the segment failed, or the candidate has finished."""
        return tuple(ending in ("failed", "done") for ending in self.endings)

    @property
    def truncated(self) -> tuple[bool, ...]:
        """Whose episode was cut off from outside: by the budget, or because everything stops."""
        return tuple(ending in ("budget", "stopped") for ending in self.endings)
