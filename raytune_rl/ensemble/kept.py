"""A state that a run has kept: what passes from training to the ensemble."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from raytune_rl.population.candidate import State

Origin: TypeAlias = Literal["best", "final", "snapshot", "soup"]
ORIGINS: tuple[Origin, ...] = ("best", "final", "snapshot")
"""In the order in which they are taken where time is short."""
Place: TypeAlias = tuple[int, int]
"""A member and a segment: the weights after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A member's state as it was after ``segment``, and why it was kept. Of a soup: the best of its ingredients."""

    member: int
    segment: int
    origin: Origin
    state: State

    @property
    def place(self) -> Place:
        return self.member, self.segment
