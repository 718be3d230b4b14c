"""What an agent is paid for. A reward is any callable on two states of a member and a context.

All rewards here are differences of ``MemberState.credit``, the bounded log score (``mdp/state.py``), so over an episode
they add up to what was reached: the final score less the baseline, exactly as long as no failure is left to repay. A
copy of better weights is paid like any other improvement, at the receiver's next report, which keeps the sum exact; who
wants to pay the donor instead writes another function.

To add a reward: one function like ``final`` below, or any callable in the experiment itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from raytune_rl.mdp.state import MemberState

MAX_RELATIVE_COST: Final = 10.0
"""One slow segment counts at most as much as this many average ones: a machine that hangs is not the agent's fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardContext:
    """What a reward may know beside the member itself.

    Attributes:
        final: whether the episode ends with this segment.
        segments: length of a member's training, if known.
        seconds: training time of this segment.
        population: the newest states of all members that are alive.
        incumbent_score: the best score that anybody has had so far, if any.
    """

    final: bool
    segments: int | None = None
    seconds: float = 0.0
    population: tuple[MemberState, ...] = ()
    incumbent_score: float | None = None

    @property
    def mean_seconds(self) -> float:
        """The mean training time of the population's last segments; 0 where none is known."""
        known = [state.seconds for state in self.population if state.seconds > 0]
        return sum(known) / len(known) if known else 0.0


Reward: TypeAlias = Callable[[MemberState, MemberState, RewardContext], float]
"""``reward(before, after, context)``: the states before and after the segment; finite for any of them."""


@dataclass(frozen=True, slots=True)
class NamedReward:
    """A reward with a name for tables, a short ``repr``, and (module-level functions being picklable) a pickle."""

    name: str
    function: Reward

    def __call__(self, before: MemberState, after: MemberState, context: RewardContext) -> float:
        return self.function(before, after, context)

    def __repr__(self) -> str:
        return self.name


def improvement() -> NamedReward:
    """What the score gained in this segment. The first segment is paid against ``MemberState.baseline``."""
    return NamedReward("improvement()", _improvement)


def final() -> NamedReward:
    """Nothing until the end, then all of it: the same sum as ``improvement``, with the credit left to the agent."""
    return NamedReward("final()", _final)


def cost_aware(weight: float = 0.05) -> NamedReward:
    """Improvement, less ``weight`` score units for a segment that takes as long as the population's average one.

    Raises:
        ValueError: the weight is negative, NaN or infinite.
    """
    if not (math.isfinite(weight) and weight >= 0):
        raise ValueError(f"the weight {weight} of cost_aware must be a number of at least 0")
    return NamedReward(f"cost_aware({weight:g})", CostAware(weight))


@dataclass(frozen=True, slots=True)
class CostAware:
    """The function behind ``cost_aware``."""

    weight: float

    def __call__(self, before: MemberState, after: MemberState, context: RewardContext) -> float:
        mean = context.mean_seconds
        relative = context.seconds / mean if mean > 0 and math.isfinite(context.seconds) else 1.0
        return _improvement(before, after, context) - self.weight * min(max(relative, 0.0), MAX_RELATIVE_COST)


def _improvement(before: MemberState, after: MemberState, context: RewardContext) -> float:
    return after.credit - before.credit


def _final(before: MemberState, after: MemberState, context: RewardContext) -> float:
    return after.credit - after.baseline if context.final else 0.0
