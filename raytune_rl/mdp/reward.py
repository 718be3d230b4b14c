"""Rewards. A reward is any callable on two states of a member and a context.

Rewards for a single model are differences of ``MemberState.credit``, the bounded log score (``mdp/state.py``), so over
an episode they sum to the member's final score (exactly, unless a failure shortly before the end is not charged in full
yet). Copied weights are rewarded like any other improvement, at the receiver's next report, which keeps the sum exact.

Where the objective is the ensemble, ``team``, ``difference`` and ``mixed`` are differences of the member's
``EnsembleStats`` (``mdp/ensemble_stats.py``). A failed segment costs ``FAILURE_COST`` and changes nothing else, so they
sum to what was reached less the cost of failures. Diversity is rewarded by its value for the ensemble, not by itself.

To add a reward: one function like ``final`` below, or any callable in the experiment itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from raytune_rl.mdp.ensemble_stats import EnsembleStats
from raytune_rl.mdp.state import FAILURE_COST, MemberState

MAX_RELATIVE_COST: Final = 10.0
"""A slow segment counts at most as this many average ones: the agent is not to blame for a machine that hangs."""

MIXED_LIMIT: Final = 2.0
"""Largest absolute value of ``mixed``, in score units: reports are noisy, and one must not outweigh all others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardContext:
    """What a reward can depend on besides the member's states.

    Attributes:
        final: whether the episode ends with this segment.
        segments: length of a member's training, if known.
        seconds: training time of this segment; 0 = unknown, or left out because the run must be reproducible.
        population: the newest states of all living members.
        incumbent_score: the best score of any member so far, if any.
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
"""``reward(before, after, context)``, with the states before and after the segment; must be finite for all of them."""


@dataclass(frozen=True, slots=True)
class NamedReward:
    """A reward with a name for tables and ``repr``. Picklable if its function is.

    Attributes:
        name: as a call, such as ``final()``.
        function: computes it.
        ensemble: whether it rewards the ensemble, and so needs ``objective="ensemble"``.
    """

    name: str
    function: Reward
    ensemble: bool = False

    def __call__(self, before: MemberState, after: MemberState, context: RewardContext) -> float:
        return self.function(before, after, context)

    def __repr__(self) -> str:
        return self.name


def improvement() -> NamedReward:
    """The gain of the score in this segment; in the first segment, the score itself."""
    return NamedReward("improvement()", _improvement)


def final() -> NamedReward:
    """0 until the episode ends, then the sum of ``improvement``: assigning the credit is left to the agent."""
    return NamedReward("final()", _final)


def cost_aware(weight: float = 0.05) -> NamedReward:
    """Improvement, less ``weight`` score units for a segment of average duration in the population (proportionally more
    or less for others).

    Raises:
        ValueError: the weight is negative, NaN or infinite.
    """
    return NamedReward(f"cost_aware({_weight('weight', weight):g})", CostAware(weight))


def team() -> NamedReward:
    """The gain of the greedy ensemble's score since the member's last report, whichever members caused it."""
    return NamedReward("team()", Team(greedy=1.0), ensemble=True)


def difference(scale: float = 8.0) -> NamedReward:
    """``scale`` times the gain of the member's contribution: the score of the ensemble with it less that without it.

    The difference reward of Wolpert & Tumer (2001, "Optimal payoff functions for members of collectives"), without a
    replacement for the member. Contributions are about 1 / members of a score, hence the scale.

    Raises:
        ValueError: the scale is negative, NaN or infinite.
    """
    return NamedReward(f"difference({_weight('scale', scale):g})", Team(contribution=scale), ensemble=True)


def mixed(greedy: float = 0.5, contribution: float = 4.0, incumbent: float = 0.25, own: float = 0.0) -> NamedReward:
    """Weighted sum of ``team``, ``difference``, the gain of the best single model, and the member's own gain
    (``improvement``), clamped to [-2, 2].

    In preliminary experiments a controller with the default weights kept the ensemble of its population from collapsing
    into one model, and its best single model was no worse.

    Raises:
        ValueError: a weight is negative, NaN or infinite.
    """
    weights = {"greedy": greedy, "contribution": contribution, "incumbent": incumbent, "own": own}
    checked = {name: _weight(name, weight) for name, weight in weights.items()}
    arguments = ", ".join(f"{weight:g}" for name, weight in checked.items() if name != "own" or weight)
    return NamedReward(f"mixed({arguments})", Team(**checked, limit=MIXED_LIMIT), ensemble=True)


@dataclass(frozen=True, slots=True)
class Team:
    """The function behind the ensemble's rewards: a weighted sum of the changes in ``EnsembleStats`` and of the
    member's own improvement, clamped to [-limit, limit]."""

    greedy: float = 0.0
    contribution: float = 0.0
    incumbent: float = 0.0
    own: float = 0.0
    limit: float = math.inf

    def __call__(self, before: MemberState, after: MemberState, context: RewardContext) -> float:
        if after.status != "ok":
            return -FAILURE_COST
        stats = after.ensemble or EnsembleStats()
        total = (
            self.greedy * stats.greedy_change
            + self.contribution * stats.contribution_change
            + self.incumbent * stats.incumbent_change
        )
        if self.own:
            total += self.own * _improvement(before, after, context)
        return min(max(total, -self.limit), self.limit)


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
    return after.credit if context.final else 0.0
