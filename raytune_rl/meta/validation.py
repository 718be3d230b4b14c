"""Meta-validation: compares a controller with rules in worlds that it did not learn from, at equal member-steps."""

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
"""The rules that a controller is compared with, all with the same copies, incumbent and roll-backs around them."""


@dataclass(frozen=True, kw_only=True)
class Validation:
    """The results of one policy.

    Attributes:
        scores: ``scores[w, p]`` is the result of population p in world w (``advantages.team_score``: of its best model
            or its ensemble), on the test split (``mdp.score``: higher is better; 0.1 means a loss about a tenth
            smaller).
    """

    scores: np.ndarray

    @property
    def mean(self) -> float:
        return float(self.scores.mean())

    def against(self, other: Validation) -> tuple[float, float]:
        """The mean difference of scores, and the share of pairs, within worlds, in which this policy is better. Ties
        count half."""
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
    """Play the worlds ``numbers``. The populations of a world differ in initial weights, batches and sampled decisions.

    Args:
        each: a function like ``map``, which may play several worlds at once.
    """
    play_world = functools.partial(results, make_policy=make_policy, populations=populations, seed=seed)
    return Validation(scores=np.array(list(each(play_world, numbers))))


def results(number: int, *, make_policy: Callable[[], Policy], populations: int, seed: int) -> list[float]:
    """The score of each population of one world (``advantages.team_score``), on the test split."""
    world = make_world(number)
    group = play(world, make_policy, groups=populations, seed=seed, alike=False)
    return [
        team_score(score(played.validation), score(played.test), played.ensemble if world.ensemble else None)
        for played in group.played
    ]
