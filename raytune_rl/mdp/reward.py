"""What an agent is paid for. A reward is any callable on two states of a member and a context.

All rewards here are differences of ``MemberState.credit``, the bounded log score (``mdp/state.py``), so over an episode
they add up to what was reached: the final score less the baseline, exactly as long as no failure is left to repay. A
copy of better weights is paid like any other improvement, at the receiver's next report, which keeps the sum exact; who
wants to pay the donor instead writes another function.

Where the objective is the ensemble, ``team``, ``difference`` and ``mixed`` pay for it: differences again, of the
member's ``Standing`` (``mdp/standing.py``). A segment that went wrong costs ``FAILURE_COST`` there and moves nothing
else, so they add up to what was reached, less what failures cost. Diversity is paid by what it is worth to the
ensemble, not by itself.

To add a reward: one function like ``final`` below, or any callable in the experiment itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from raytune_rl.mdp.standing import Standing
from raytune_rl.mdp.state import FAILURE_COST, MemberState

MAX_RELATIVE_COST: Final = 10.0
"""One slow segment counts at most as much as this many average ones: a machine that hangs is not the agent's fault."""

MIXED_LIMIT: Final = 2.0
"""Of ``mixed``, in score units: single reports are noisy, and one must not outweigh all others."""


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
    ensemble: bool = False
    """Whether it pays for the ensemble, and so needs ``objective="ensemble"``."""

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
    return NamedReward(f"cost_aware({_weight('weight', weight):g})", CostAware(weight))


def team() -> NamedReward:
    """What the score of the greedy ensemble gained since the member's last report, whoever's merit it is."""
    return NamedReward("team()", Team(greedy=1.0), ensemble=True)


def difference(scale: float = 8.0) -> NamedReward:
    """``scale`` times what the member's contribution gained: the ensemble with it less the ensemble without it.

    The difference reward of Wolpert & Tumer (2001, "Optimal payoff functions for members of collectives"), with nobody
    in the member's place. Contributions are about 1 / members of a score, hence the scale.

    Raises:
        ValueError: the scale is negative, NaN or infinite.
    """
    return NamedReward(f"difference({_weight('scale', scale):g})", Team(contribution=scale), ensemble=True)


def mixed(greedy: float = 0.5, contribution: float = 4.0, incumbent: float = 0.25) -> NamedReward:
    """Team, difference, and the best single model, each by its weight, together clamped to [-2, 2].

    With the default weights a controller in a study of ours kept the ensemble of its population from collapsing into
    one model, without loss of the best single one.

    Raises:
        ValueError: a weight is negative, NaN or infinite.
    """
    weights = {"greedy": greedy, "contribution": contribution, "incumbent": incumbent}
    found = {name: _weight(name, weight) for name, weight in weights.items()}
    told = ", ".join(f"{weight:g}" for weight in found.values())
    return NamedReward(f"mixed({told})", Team(**found, limit=MIXED_LIMIT), ensemble=True)


@dataclass(frozen=True, slots=True)
class Team:
    """The function behind the rewards that pay for the ensemble: a weighted sum of changes of the standing, which is
    at most ``limit`` from 0."""

    greedy: float = 0.0
    contribution: float = 0.0
    incumbent: float = 0.0
    limit: float = math.inf

    def __call__(self, before: MemberState, after: MemberState, context: RewardContext) -> float:
        if after.status != "ok":
            return -FAILURE_COST
        now = after.team or Standing()
        paid = (
            self.greedy * now.greedy_change
            + self.contribution * now.contribution_change
            + self.incumbent * now.incumbent_change
        )
        return min(max(paid, -self.limit), self.limit)


@dataclass(frozen=True, slots=True)
class CostAware:
    """The function behind ``cost_aware``."""

    weight: float

    def __call__(self, before: MemberState, after: MemberState, context: RewardContext) -> float:
        mean = context.mean_seconds
        relative = context.seconds / mean if mean > 0 and math.isfinite(context.seconds) else 1.0
        return _improvement(before, after, context) - self.weight * min(max(relative, 0.0), MAX_RELATIVE_COST)


def _weight(name: str, weight: float) -> float:
    if not (math.isfinite(weight) and weight >= 0):
        raise ValueError(f"{name} is {weight}: it must be a number of at least 0")
    return weight


def _improvement(before: MemberState, after: MemberState, context: RewardContext) -> float:
    return after.credit - before.credit


def _final(before: MemberState, after: MemberState, context: RewardContext) -> float:
    return after.credit - after.baseline if context.final else 0.0
