"""Islands: a large population as several small ones, which train side by side and do not copy from each other.

Every copy selects by validation, again and again along one line of descent. The more members there are to select from,
the better the selected ones fit the validation split, and the less that says about other data. So a policy says how
many members it steers together, and a larger population is divided (the island model of evolutionary algorithms, Tanese
1989). The measurements are in ``experiments/controller/LOG.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raytune_rl.mdp.population_stats import PopulationStats
from raytune_rl.mdp.state import MemberState


@dataclass(frozen=True, slots=True, kw_only=True)
class IslandView:
    """What a member sees of the others, and can copy from.

    Attributes:
        population: the newest states of the living members on its island.
        stats: statistics over them.
        incumbent_member: the member that holds the best score there; ``None`` if nobody has one.
        incumbent_score: that score.
    """

    population: tuple[MemberState, ...]
    stats: PopulationStats
    incumbent_member: int | None = None
    incumbent_score: float | None = None

    @classmethod
    def of(
        cls, population: Sequence[MemberState], *, positions: int, incumbent: tuple[int, float] | None = None
    ) -> IslandView:
        """Of a population with ``positions`` hyperparameters; ``incumbent``: a member and its score."""
        member, score = incumbent or (None, None)
        return cls(
            population=tuple(population),
            stats=PopulationStats.of(population, positions),
            incumbent_member=member,
            incumbent_score=score,
        )


class Islands:
    """Which members belong together: neighbours by index, in groups as equal as possible.

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
        """The island of a member. Members beyond the population, which a searcher may add, join the last one."""
        return min(member * self.count // self._population, self.count - 1)

    def view(
        self, island: int, population: Sequence[MemberState], *, positions: int, incumbent: tuple[int, float] | None
    ) -> IslandView:
        """What the members of an island see.

        Args:
            island: its index.
            population: the newest states of all living members.
            positions: how many hyperparameters there are.
            incumbent: the member with the best score of all, alive or not, and that score. Only used where there is one
                island; several islands have an incumbent each, among their living members.
        """
        if self.count > 1:
            population = [state for state in population if self.of(state.member) == island]
            scores = [(state.best_score, -state.member) for state in population if state.best_score is not None]
            score, negative_member = max(scores, default=(None, 0))
            incumbent = None if score is None else (-negative_member, score)
        return IslandView.of(population, positions=positions, incumbent=incumbent)
