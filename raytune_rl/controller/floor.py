"""Keeps an experiment from losing what it had: a member that a change has ruined goes back to its own best.

The record is safe anyway (whoever holds it, its checkpoint is kept). This rule is about the members: one whose values
were changed or whose weights were replaced, and whose score has collapsed since, would train on from ruins until the
policy takes notice, which an untrained one does not.

The thresholds were chosen on ``META_TRAIN`` worlds, and looked at once on ``META_VALIDATION``; the figures are in
``experiments/controller/LOG.md``. Margins of 0.2 to 1.4 differ by less than can be told, so the default is the one that
can be said in words: a loss twice as large, or half of what training has given.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from raytune_rl.errors import BadInput
from raytune_rl.mdp.state import MemberState

LEAST_NOISE: Final = 0.05
"""Score units that validation is taken to scatter by at least. The mean loss of a few dozen rows is no better known,
and a young population has shown no scatter yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """When a member is taken back, in units of ``mdp.score`` (0.7 = a loss twice as large).

    A fall is measured from the member's own best. It is a collapse if it is larger than ``min(margin, share * gain) +
    noise * scatter``. The gain is what training is worth here: the population's best score less the median of the first
    ones; it makes the rule fit metrics whose scores span little, such as an accuracy. The scatter is the deepest fall
    that the member has come back from without help, or the population's median of these if that is larger: what a run
    gets over by itself is no collapse, and a collapse of everybody at once does not excuse itself.

    Attributes:
        margin: the largest fall that may be forgiven, scatter aside.
        share: of the gain that may be lost.
        noise: multiples of the scatter that are added.
        watch: segments after a change in which a collapse is put down to it.
        rest: segments after a return before the next one, so that a member cannot be caught in a loop.

    Raises:
        BadInput: one of these is negative or no number, or ``watch`` or ``rest`` below 1.
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

    def acts(self, state: MemberState, population: Sequence[MemberState]) -> bool:
        """Whether the member in ``state`` is to go back to its own best, with the values that it had there.

        Args:
            state: the member's newest.
            population: everybody's newest, the member's own among them or not.
        """
        if not (self.answers_for(state) and self.rested(state)):
            return False
        fall = fallen(state)
        return fall > self.noise * LEAST_NOISE and fall > self.limit(state, population)

    def answers_for(self, state: MemberState) -> bool:
        """Whether the member was changed lately, and not before its best segment."""
        changed, best = state.changed_segment, state.best_segment
        return changed is not None and best is not None and changed >= best and state.segment - changed <= self.watch

    def rested(self, state: MemberState) -> bool:
        """Whether its last return is long enough ago."""
        return state.returned_segment is None or state.segment - state.returned_segment >= self.rest

    def limit(self, state: MemberState, population: Sequence[MemberState]) -> float:
        """The largest fall that is still none."""
        everybody = [state, *(s for s in population if s.member != state.member)]
        best = max((s.best_score for s in everybody if s.best_score is not None), default=0.0)
        first = statistics.median([s.first_score for s in everybody if s.first_score is not None] or [best])
        scatter = max(state.recovered, statistics.median(s.recovered for s in everybody), LEAST_NOISE)
        return min(self.margin, self.share * (best - first)) + self.noise * scatter


def fallen(state: MemberState) -> float:
    """How far the member is below its own best, after a sound segment; 0 where nothing is known."""
    if state.status != "ok" or state.score is None or state.best_score is None:
        return 0.0
    return max(state.best_score - state.score, 0.0)
