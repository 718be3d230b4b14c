"""The action: one move per hyperparameter, a source for the member's weights, and optionally a stop.

An action is a tuple with one index per *head*. ``ActionSpec.apply`` turns it into a ``Move``. Where an option is not
possible now, the move changes nothing instead of raising an error, so that an agent can explore. PPO and APPO take the
action as it is; ``ActionSpec.from_box`` converts SAC's; ``rllib.spaces.Sequential`` converts DQN's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias, get_args

import numpy as np

from raytune_rl.hyperparameters import LEVELS, STAY, SearchSpace
from raytune_rl.mdp.population_stats import PopulationStats
from raytune_rl.mdp.state import MemberState, ranking
from raytune_rl.records import KEEP, Source

SourceName: TypeAlias = Literal["keep", "best", "second", "incumbent", "own_best"]

SOURCES: Final[tuple[SourceName, ...]] = get_args(SourceName)
"""Where weights can come from. ``keep``: the member's own. ``best``, ``second``: the present weights of the best and
the second best other member. ``incumbent``: the best checkpoint of the member with the best score so far.
``own_best``: the member's own best checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """One choice among ``size`` options; ``neutral`` is the index of the one that changes nothing."""

    name: str
    size: int
    neutral: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """What an action means for one member.

    Attributes:
        positions: the hyperparameters of the coming segment, each in [0, 1].
        source: where the weights come from.
        stop: the member's training ends; the other fields are then without effect.
    """

    positions: tuple[float, ...]
    source: Source = KEEP
    stop: bool = False


@dataclass(frozen=True)
class ActionSpec:
    """The action space of one experiment.

    Attributes:
        space: the hyperparameters; one head of size ``LEVELS`` each, named ``hp/<name>``.
        sources: what the head ``source`` offers, in this order; ``keep`` must be among them.
        stopping: whether there is a head ``stop`` (0 = go on, 1 = stop).
        copy_every: weights may be copied before every n-th segment, or before the listed segments (from 1: before
            segment 0 there is nothing to copy). Rare copies keep the population from converging too early.

    Raises:
        ValueError: unknown or repeated sources, no ``keep``, or an interval or segment below 1.
    """

    space: SearchSpace
    sources: tuple[SourceName, ...] = SOURCES
    stopping: bool = False
    copy_every: int | tuple[int, ...] = 1
    heads: tuple[Head, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        unknown = [source for source in self.sources if source not in SOURCES]
        if unknown or len(set(self.sources)) < len(self.sources) or "keep" not in self.sources:
            raise ValueError(
                f"the sources {', '.join(self.sources)} must be different ones of {', '.join(SOURCES)}, with keep"
            )
        segments = (self.copy_every,) if isinstance(self.copy_every, int) else self.copy_every
        if any(segment < 1 for segment in segments):
            raise ValueError(f"copy_every={self.copy_every} must be an interval of at least 1, or segments from 1 on")
        heads = [Head(name=f"hp/{name}", size=LEVELS, neutral=STAY) for name in self.space.names]
        heads.append(Head(name="source", size=len(self.sources), neutral=self.sources.index("keep")))
        if self.stopping:
            heads.append(Head(name="stop", size=2, neutral=0))
        object.__setattr__(self, "heads", tuple(heads))

    @property
    def names(self) -> tuple[str, ...]:
        """The heads' names, in the order of an action's indices."""
        return tuple(head.name for head in self.heads)

    @property
    def nvec(self) -> tuple[int, ...]:
        """The heads' sizes."""
        return tuple(head.size for head in self.heads)

    @property
    def neutral(self) -> tuple[int, ...]:
        """The action that changes nothing: stay, keep, go on. As a first action it means the middle starting values."""
        return tuple(head.neutral for head in self.heads)

    def copy_allowed(self, segment: int) -> bool:
        """Whether weights may be copied before ``segment`` (from 0)."""
        if isinstance(self.copy_every, int):
            return segment > 0 and segment % self.copy_every == 0
        return segment in self.copy_every

    def apply(
        self,
        action: Sequence[int],
        *,
        first: bool,
        state: MemberState,
        population: Sequence[MemberState] | PopulationStats,
        incumbent_member: int | None,
    ) -> Move:
        """What ``action`` means for the member in ``state``.

        At the first decision the heads of the hyperparameters are absolute levels, the weights are kept, and nothing
        stops. Later, live hyperparameters move from the positions of the donor (on a roll-back: from the member's own,
        which need not be wrong). Start-only hyperparameters describe the weights (an initialisation, a width), so they
        do not move; with copied weights the member gets those that the weights were trained with.

        The source is ``keep`` where ``copy_allowed`` is false, where there is no such donor, and where the donor's
        weights score no better than the member's own (so the best member never copies).

        Args:
            action: one index per head.
            first: whether it sets the starting values.
            state: the member's newest state.
            population: the newest states of all members, with or without this one (which is never its own donor), or
                their ``PopulationStats``, which a caller computes once for several members.
            incumbent_member: the member that holds the best score so far, if any.

        Raises:
            ValueError: an index is missing or outside its head.
        """
        self._check(action)
        if first:
            levels = zip(self.space.hyperparameters, action, strict=False)
            return Move(positions=tuple(h.level(index) for h, index in levels))
        name = self.sources[action[len(self.space)]]
        donor = self._donor(name, state, population, incumbent_member)
        source, live, fixed = donor or (KEEP, state.positions, state.positions)
        positions = tuple(
            h.move(live[i], action[i]) if h.live else fixed[i] for i, h in enumerate(self.space.hyperparameters)
        )
        return Move(positions=positions, source=source, stop=self.stopping and action[-1] == 1)

    def _donor(
        self,
        name: SourceName,
        state: MemberState,
        population: Sequence[MemberState] | PopulationStats,
        incumbent_member: int | None,
    ) -> tuple[Source, tuple[float, ...], tuple[float, ...]] | None:
        """The source, and the positions that live and start-only hyperparameters get from it; ``None`` = keep."""
        if name == "keep" or not self.copy_allowed(state.segment):
            return None
        ranked = population.ranked if isinstance(population, PopulationStats) else ranking(population)
        others = [s for s in ranked if s.member != state.member and s.status == "ok"]
        if name in ("best", "second"):
            place = 0 if name == "best" else 1
            if place >= len(others) or not _better(others[place].score, state):
                return None
            donor = others[place]
            return Source(kind="member", member=donor.member, name=name), donor.positions, donor.positions
        member = state.member if name == "own_best" else incumbent_member
        holders = [state] if member == state.member else [s for s in others if s.member == member]
        if not holders or not _better(holders[0].best_score, state):
            return None
        source = Source(kind="checkpoint", member=member, name=name)
        return source, holders[0].positions, holders[0].best_positions

    def _check(self, action: Sequence[int]) -> None:
        if len(action) != len(self.heads):
            raise ValueError(f"an action has {len(self.heads)} indices ({', '.join(self.names)}), not {len(action)}")
        for head, index in zip(self.heads, action, strict=True):
            if not 0 <= index < head.size:
                raise ValueError(f"the index {index} of the head '{head.name}' must be between 0 and {head.size - 1}")

    def from_box(self, box: np.ndarray) -> tuple[int, ...]:
        """The action for a point in [-1, 1]^n, shape (heads,): each axis is cut into equal bins, one per option.

        Values outside are clipped; NaN means the neutral option.

        Raises:
            ValueError: ``box`` has another shape.
        """
        if np.shape(box) != (len(self.heads),):
            raise ValueError(f"a box action has the shape ({len(self.heads)},), not {np.shape(box)}")
        return tuple(_bin(float(x), head) for x, head in zip(box, self.heads, strict=True))


def _better(score: float | None, state: MemberState) -> bool:
    """Whether weights with that score are better than the member's own."""
    return score is not None and (state.score is None or score > state.score)


def _bin(x: float, head: Head) -> int:
    if np.isnan(x):
        return head.neutral
    share = (min(max(x, -1.0), 1.0) + 1.0) / 2.0
    return min(int(share * head.size), head.size - 1)
