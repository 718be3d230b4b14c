"""Two rules written by hand: a grid of learning rates under a cosine, and an expert that a controller can imitate."""

from __future__ import annotations

import math

import numpy as np

from raytune_rl.controller.policies import Rule
from raytune_rl.controller.policy import PolicyRequirements, Situation
from raytune_rl.controller.prior import RATE_CENTRE, RATE_SIGN, RATE_WIDTH, REPLACED
from raytune_rl.controller.tokens import spread
from raytune_rl.hyperparameters import LEVELS, STAY
from raytune_rl.mdp.action import ActionSpec
from raytune_rl.mdp.observation import ObservationSpec

REGULARISED = (0.35, 0.25, 0.15, 0.1, 0.1, 0.05, 0.0)
"""Shares of the members that start at each level of regularisation: mostly off or low."""


class Grid(Rule):
    """Starting learning rates around a usual default, mostly low regularisation, and a cosine; no later changes."""

    requirements = PolicyRequirements(schedule="cosine")

    def bind(self, observation: ObservationSpec, action: ActionSpec, *, seed: int) -> None:
        super().bind(observation, action, seed=seed)
        self._shifts = np.random.default_rng([seed, 0xE4]).random(len(action.heads))

    def choose(self, situation: Situation, rng: np.random.Generator) -> tuple[int, ...]:
        action = list(self._action.neutral)
        if not situation.first:
            return self._later_action(action, situation, rng)
        centre = RATE_CENTRE + RATE_SIGN * float(situation.observation[self._observation.index("optimiser")])
        draws = spread(situation.member, self._shifts)
        for head, (hyperparameter, draw) in enumerate(zip(self._action.space, draws, strict=False)):
            if hyperparameter.role == "learning_rate":
                levels = [float(hyperparameter.decode(hyperparameter.level(index))) for index in range(LEVELS)]
                rates = [math.log10(level) + 2 for level in levels]
                shares = [math.exp(-(((rate - centre) / RATE_WIDTH) ** 2) / 2) for rate in rates]
            elif hyperparameter.name in ("weight_decay", "dropout", "label_smoothing"):
                shares = list(REGULARISED)
            else:
                shares = [float(index >= STAY) for index in range(LEVELS)]
            below = np.cumsum(shares) / (sum(shares) + 1e-30) < draw
            action[head] = min(int(below.sum()), LEVELS - 1)
        return tuple(action)

    def _later_action(self, action: list[int], situation: Situation, rng: np.random.Generator) -> tuple[int, ...]:
        """The action after the first decision; ``action`` is the neutral one and may be changed."""
        return tuple(action)


class Expert(Grid):
    """Does without a network what the network's prior does for a single model: learning rates are kept and decay late;
    a member that is behind copies weights and values from one of the two best members, and then moves each value by a
    small step. (The prior now starts differently: weight decay and label smoothing anywhere in their ranges.)"""

    requirements = PolicyRequirements(schedule="late_cosine")

    def _later_action(self, action: list[int], situation: Situation, rng: np.random.Generator) -> tuple[int, ...]:
        rank = situation.observation[self._observation.index("rank")]
        if situation.observation[self._observation.index("copy_allowed")] and rank > REPLACED:
            action = [int(index + rng.integers(-1, 2)) for index in action]
            action[len(self._action.space)] = self._action.sources.index("best" if rng.random() < 0.6 else "second")
        return tuple(action)
