"""Islands: a large population as several small ones, which train side by side and do not copy from each other.

Copying is selection by validation, again and again along one line of descent. The more members there are to select
from, the better the lines fit the validation split, and the less that says about any other data. So a policy says how
many members it steers together, and a larger population is divided (the island model of evolutionary algorithms, Tanese
1989). What was measured is in ``experiments/controller/LOG.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raytune_rl.mdp.crowd import Crowd
from raytune_rl.mdp.state import MemberState


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a member can see and copy from.

    Attributes:
        population: those on its island that are alive.
        crowd: statistics over them.
        holder: who holds the record there, if anybody.
        record: its score.
    """

    population: tuple[MemberState, ...]
    crowd: Crowd
    holder: int | None = None
    record: float | None = None

    @classmethod
    def of(
        cls, population: Sequence[MemberState], *, positions: int, record: tuple[int, float] | None = None
    ) -> Surroundings:
        """Of a population with ``positions`` hyperparameters; ``record``: its holder and its score."""
        holder, score = record or (None, None)
        crowd = Crowd.of(population, positions)
        return cls(population=tuple(population), crowd=crowd, holder=holder, record=score)


class Islands:
    """Which members belong together: neighbours in order, in groups as equal as possible.

    Args:
        population: how many members there are.
        size: how many are wanted on an island; ``None``: all.

    >>> islands = Islands(20, 8)
    >>> islands.count, [islands.of(member) for member in (0, 9, 13, 19)]
    (3, [0, 1, 1, 2])
    """

    def __init__(self, population: int, size: int | None) -> None:
        self._population = population
        self.count = 1 if size is None else max(1, (2 * population + size) // (2 * size))

    def of(self, member: int) -> int:
        """The island of a member. (Members beyond the population, which a searcher may add, join the last.)"""
        return min(member * self.count // self._population, self.count - 1)

    def surroundings(
        self, island: int, population: Sequence[MemberState], *, positions: int, record: tuple[int, float] | None
    ) -> Surroundings:
        """What is seen on an island of ``population``, those that are alive.

        Args:
            positions: how many hyperparameters there are.
            record: who has had the best score of all, alive or not, and that score. It counts where there is one
                island; where there are several, each has its own, among those that are alive.
        """
        if self.count > 1:
            population = [state for state in population if self.of(state.member) == island]
            scores = [(state.best_score, -state.member) for state in population if state.best_score is not None]
            score, holder = max(scores, default=(None, 0))
            record = None if score is None else (-holder, score)
        return Surroundings.of(population, positions=positions, record=record)
