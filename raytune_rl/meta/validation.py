"""How good a controller is in worlds that nobody learned from: against rules, at equal member-steps."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raytune_rl.controller.policies import PBT, Random
from raytune_rl.controller.policy import Policy
from raytune_rl.meta.advantages import team_score
from raytune_rl.meta.episodes import play, score
from raytune_rl.meta.expert import Expert, Grid
from raytune_rl.worlds.generator import META_VALIDATION, make_world

RULES: Mapping[str, Callable[[], Any]] = {
    "grid + cosine": Grid,
    "PBT from the grid": Expert,
    "random actions": Random,
    "PBT": PBT,
}
"""What a controller is held against; all of them within the same structure (copies, incumbent, roll-back)."""


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Scores of one policy: ``scores[w, p]`` of what population p of world w came to (``credit.team_score``: its model
    or its ensemble), on the test split (``mdp.score``: higher is better, 0.1 is a loss that is a tenth smaller)."""

    scores: np.ndarray

    @property
    def mean(self) -> float:
        return float(self.scores.mean())

    def against(self, other: Validation) -> tuple[float, float]:
        """Mean difference, and the share of pairs in which this one is better (ties count half)."""
        difference = self.scores.mean(axis=1) - other.scores.mean(axis=1)
        pairs = self.scores[:, :, None] - other.scores[:, None, :]
        return float(difference.mean()), float((np.sign(pairs) / 2 + 0.5).mean())


def validate(
    make_policy: Callable[[], Policy],
    *,
    numbers: Sequence[int] = META_VALIDATION,
    populations: int = 4,
    seed: int = 0,
    each: Callable[..., Iterable[list[float]]] = map,
) -> Validation:
    """Play the worlds of ``numbers``; populations differ in their initial weights, batches and sampled decisions.

    Args:
        each: like ``map``, for whoever plays several worlds at once.
    """
    playing = functools.partial(results, make_policy=make_policy, populations=populations, seed=seed)
    return Validation(scores=np.array(list(each(playing, numbers))))


def results(number: int, *, make_policy: Callable[[], Policy], populations: int, seed: int) -> list[float]:
    """What each population of one world came to, on its test split."""
    world = make_world(number)
    group = play(world, make_policy, groups=populations, seed=seed, alike=False)
    return [
        team_score(score(played.validation), score(played.test), played.ensemble if world.ensemble else None)
        for played in group.played
    ]
