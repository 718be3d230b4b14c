"""What one member's observation needs to know of the others: a few statistics over the population."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from raytune_rl.mdp.score import OFFSET, PENALTY
from raytune_rl.mdp.state import MemberState, change, place, ranking, training_seconds

LEADERS: Final = 3
"""Members whose hyperparameters say where the population should be, at most half of it. The best one alone is partly
lucky."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """Statistics over the members that are alive; NaN where nobody has what they are about.

    A member whose last segment went wrong takes part in the ranking, as the last, and in nothing else: its penalty is
    no measurement.
    """

    size: int
    ranked: tuple[MemberState, ...]
    best: MemberState | None
    median: float
    mean: float
    spread: float
    mean_change: float
    train_loss: float
    """ln(median training loss + 0.02)."""
    seconds: float
    """Median training time of the last segments."""
    position_spread: tuple[float, ...]
    position_mean: tuple[float, ...]
    lead: tuple[float, ...]
    """Mean position of the ``LEADERS`` best members less ``position_mean``; 0 while nobody sound has reported."""
    places: Mapping[int, int] = field(init=False, repr=False, compare=False)
    """By member, its index in ``ranked``."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "places", {s.member: index for index, s in enumerate(self.ranked)})

    @classmethod
    def of(cls, population: Sequence[MemberState], positions: int) -> Crowd:
        """Statistics of a population with ``positions`` hyperparameters; empty ones are fine."""
        alive = [s for s in population if s.alive]
        ranked = tuple(ranking(alive))
        scores = [s.score for s in ranked if s.score is not None and s.score > PENALTY]
        changes = [c for s in ranked if (c := change(s)) is not None]
        losses = [s.train_loss for s in alive if s.train_loss is not None and s.train_loss >= 0]
        times = [t for s in alive if (t := training_seconds(s)) > 0]
        columns = [[s.positions[i] for s in alive] for i in range(positions)]
        sound = [s for s in alive if s.status == "ok"]
        ahead = [s for s in ranked if s.status == "ok"][: max(1, min(LEADERS, len(sound) // 2))]
        middle = [_mean([s.positions[i] for s in sound]) for i in range(positions)]
        front = [_mean([s.positions[i] for s in ahead]) for i in range(positions)] if ahead else middle
        return cls(
            size=len(alive),
            ranked=ranked,
            best=ahead[0] if ahead else None,
            median=median(scores) if scores else math.nan,
            mean=_mean(scores),
            spread=_spread(scores),
            mean_change=_mean(changes),
            train_loss=math.log(median(losses) + OFFSET) if losses else math.nan,
            seconds=median(times) if times else math.nan,
            position_spread=tuple(map(_spread, columns)),
            position_mean=tuple(middle),
            lead=tuple(best - mean for best, mean in zip(front, middle, strict=True)),
        )

    def rank(self, state: MemberState) -> float:
        """The share of the other ranked members that are better, in [0, 1]; NaN before the member's first report."""
        if state.score is None:
            return math.nan
        ahead = bisect_left(self.ranked, place(state), key=place)
        before = self.places.get(state.member)  # where the member itself stands there, perhaps with an older state
        others = len(self.ranked) - (before is not None)
        if before is not None and before < ahead:
            ahead -= 1
        return ahead / others if others else 0.0


# The statistics module is exact, which makes it slow, and raises on infinities.
def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers) if numbers else math.nan


def _spread(numbers: Sequence[float]) -> float:
    """The standard deviation."""
    mean = _mean(numbers)
    return math.sqrt(_mean([(x - mean) * (x - mean) for x in numbers]))
