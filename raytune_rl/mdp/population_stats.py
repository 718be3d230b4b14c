"""Statistics over a population, which a member's observation shows and actions rank donors by."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from raytune_rl.mdp.score import OFFSET, PENALTY
from raytune_rl.mdp.state import MemberState, rank_key, ranking, score_change, training_seconds

LEADERS: Final = 3
"""How many of the best members say where the hyperparameters of the population should be, at most half of it. The best
one alone is partly lucky."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PopulationStats:
    """Statistics over living members; NaN where no member reports the quantity.

    A member whose last segment went wrong is ranked last, but its penalty enters none of the other statistics: it is
    not a measurement.

    Attributes:
        size: number of members.
        ranked: those that have a score, best first.
        best: the best one whose last segment was sound.
        median, mean, spread: of the present scores; ``spread`` is the standard deviation.
        mean_change: mean change of the score over the last segment.
        train_loss: ln(median training loss + 0.02).
        seconds: median training time of the last segments.
        position_spread: standard deviation of each hyperparameter's positions.
        position_mean: mean of each hyperparameter's positions, over members whose last segment was sound.
        lead: mean position of the ``LEADERS`` best members less ``position_mean``; 0 before the first sound report.
        places: by member, its index in ``ranked``.
    """

    size: int
    ranked: tuple[MemberState, ...]
    best: MemberState | None
    median: float
    mean: float
    spread: float
    mean_change: float
    train_loss: float
    seconds: float
    position_spread: tuple[float, ...]
    position_mean: tuple[float, ...]
    lead: tuple[float, ...]
    places: Mapping[int, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "places", {s.member: index for index, s in enumerate(self.ranked)})

    @classmethod
    def of(cls, population: Sequence[MemberState], positions: int) -> PopulationStats:
        """Statistics of a population with ``positions`` hyperparameters. It may be empty."""
        alive = [s for s in population if s.alive]
        ranked = tuple(ranking(alive))
        scores = [s.score for s in ranked if s.score is not None and s.score > PENALTY]
        changes = [c for s in ranked if (c := score_change(s)) is not None]
        losses = [s.train_loss for s in alive if s.train_loss is not None and s.train_loss >= 0]
        times = [t for s in alive if (t := training_seconds(s)) > 0]
        columns = [[s.positions[i] for s in alive] for i in range(positions)]
        sound = [s for s in alive if s.status == "ok"]
        leaders = [s for s in ranked if s.status == "ok"][: max(1, min(LEADERS, len(sound) // 2))]
        means = [_mean([s.positions[i] for s in sound]) for i in range(positions)]
        leading = [_mean([s.positions[i] for s in leaders]) for i in range(positions)] if leaders else means
        return cls(
            size=len(alive),
            ranked=ranked,
            best=leaders[0] if leaders else None,
            median=median(scores) if scores else math.nan,
            mean=_mean(scores),
            spread=_spread(scores),
            mean_change=_mean(changes),
            train_loss=math.log(median(losses) + OFFSET) if losses else math.nan,
            seconds=median(times) if times else math.nan,
            position_spread=tuple(map(_spread, columns)),
            position_mean=tuple(means),
            lead=tuple(leader - mean for leader, mean in zip(leading, means, strict=True)),
        )

    def rank(self, state: MemberState) -> float:
        """The share of the other ranked members that are better, in [0, 1]; NaN before the member's first report."""
        if state.score is None:
            return math.nan
        better = bisect_left(self.ranked, rank_key(state), key=rank_key)
        own_place = self.places.get(state.member)  # the member itself may be among them, perhaps with an older state
        others = len(self.ranked) - (own_place is not None)
        if own_place is not None and own_place < better:
            better -= 1
        return better / others if others else 0.0


# ``statistics.mean`` and ``stdev`` compute with exact fractions, which is slow, and raise on infinities.
def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers) if numbers else math.nan


def _spread(numbers: Sequence[float]) -> float:
    """The standard deviation."""
    mean = _mean(numbers)
    return math.sqrt(_mean([(x - mean) * (x - mean) for x in numbers]))
