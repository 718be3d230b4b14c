"""The safe floor: a member whose score has collapsed after a change returns to its own best checkpoint and values.

The incumbent is safe anyway, since its checkpoint is kept. This rule protects the members: one whose hyperparameters
were changed or whose weights were replaced, and whose score has collapsed since, would otherwise train on with useless
weights until the policy reacts, and an untrained policy does not.

The thresholds were chosen on ``META_TRAIN`` worlds and checked once on ``META_VALIDATION``; the figures are in
``experiments/controller/LOG.md``. Margins between 0.2 and 1.4 did not differ measurably, so the default is the one that
is easy to state: a loss twice as large, or half of what training has gained.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from raytune_rl.errors import BadInput
from raytune_rl.mdp.state import MemberState

MIN_SCATTER: Final = 0.05
"""Score units by which a validation score is assumed to vary by chance, at least: the mean loss of a few dozen rows is
no more precise, and a young population has shown no variation yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """When a member returns to its own best, in units of ``mdp.score`` (0.7 = a loss twice as large).

    A member's fall is its best score less its present one. It is a collapse if it is larger than
    ``min(margin, share * gain) + noise * scatter``:

    - ``gain`` is what training has achieved in this population: its best score less the median of its members' first
      scores. This makes the rule fit metrics whose scores span little, such as an accuracy.
    - ``scatter`` is the deepest fall that the member has recovered from without help, or the population's median of
      these falls if that is larger. Falls that the members of a run recover from are no collapse; yet a collapse of all
      members at once is still recognised, because only falls that were recovered from count.

    Attributes:
        margin: the largest fall that is tolerated, scatter aside.
        share: of the gain; a fall beyond it is a collapse, scatter aside.
        noise: how many times the scatter is tolerated in addition.
        watch: segments after a change during which a collapse is attributed to it.
        rest: least number of segments between two returns, so that a member is not caught in a loop.

    Raises:
        BadInput: ``margin``, ``share`` or ``noise`` is negative or not finite, or ``watch`` or ``rest`` is below 1.
    """

    margin: float = 0.7
    share: float = 0.5
    noise: float = 2.0
    watch: int = 3
    rest: int = 4

    def __post_init__(self) -> None:
        for name in ("margin", "share", "noise"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise BadInput(f"floor.{name} is {value}; it must be a number of at least 0.")
        for name in ("watch", "rest"):
            if getattr(self, name) < 1:
                raise BadInput(f"floor.{name} is {getattr(self, name)}; it must be a whole number of at least 1.")

    def applies(self, state: MemberState, population: Sequence[MemberState]) -> bool:
        """Whether the member in ``state`` has to return to its own best weights and the values that it had there.

        Args:
            state: the member's newest.
            population: the newest states of all members, with or without this one.
        """
        if not (self.was_changed(state) and self.may_return(state)):
            return False
        fall = score_fall(state)
        return fall > self.noise * MIN_SCATTER and fall > self.limit(state, population)

    def was_changed(self, state: MemberState) -> bool:
        """Whether the member was changed within ``watch`` segments, and not before its best segment."""
        changed, best = state.changed_segment, state.best_segment
        return changed is not None and best is not None and changed >= best and state.segment - changed <= self.watch

    def may_return(self, state: MemberState) -> bool:
        """Whether its last return, if any, was at least ``rest`` segments ago."""
        return state.returned_segment is None or state.segment - state.returned_segment >= self.rest

    def limit(self, state: MemberState, population: Sequence[MemberState]) -> float:
        """The largest fall that is not a collapse."""
        members = [state, *(s for s in population if s.member != state.member)]
        best = max((s.best_score for s in members if s.best_score is not None), default=0.0)
        first = statistics.median([s.first_score for s in members if s.first_score is not None] or [best])
        scatter = max(state.recovered, statistics.median(s.recovered for s in members), MIN_SCATTER)
        return min(self.margin, self.share * (best - first)) + self.noise * scatter


DEFAULT_FLOOR: Final = Floor()


def score_fall(state: MemberState) -> float:
    """How far a sound segment's score is below the member's best, at least 0; 0 where a score is unknown."""
    if state.status != "ok" or state.score is None or state.best_score is None:
        return 0.0
    return max(state.best_score - state.score, 0.0)
