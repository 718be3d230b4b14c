"""Hand-made schedules: a grid of learning rates under a cosine, and the rule that a controller can imitate first."""

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
"""Shares of the starting levels of regularisation: off or low for the most part."""


class Grid(Rule):
    """Learning rates about a hand default, a cosine, and nothing else."""

    requirements = PolicyRequirements(schedule="cosine")

    def bind(self, observation: ObservationSpec, action: ActionSpec, *, seed: int) -> None:
        super().bind(observation, action, seed=seed)
        self._shifts = np.random.default_rng([seed, 0xE4]).random(len(action.heads))

    def choose(self, situation: Situation, rng: np.random.Generator) -> tuple[int, ...]:
        action = list(self._action.neutral)
        if not situation.first:
            return self._later(action, situation, rng)
        centre = RATE_CENTRE + RATE_SIGN * float(situation.observation[self._observation.index("optimiser")])
        draws = spread(situation.member, self._shifts)
        for head, (hyperparameter, draw) in enumerate(zip(self._action.space, draws, strict=False)):
            if hyperparameter.role == "learning_rate":
                rates = [math.log10(float(hyperparameter.decode(hyperparameter.level(j)))) + 2 for j in range(LEVELS)]
                shares = [math.exp(-(((rate - centre) / RATE_WIDTH) ** 2) / 2) for rate in rates]
            elif hyperparameter.name in ("weight_decay", "dropout", "label_smoothing"):
                shares = list(REGULARISED)
            else:
                shares = [float(index >= STAY) for index in range(LEVELS)]
            below = np.cumsum(shares) / (sum(shares) + 1e-30) < draw
            action[head] = min(int(below.sum()), LEVELS - 1)
        return tuple(action)

    def _later(self, action: list[int], situation: Situation, rng: np.random.Generator) -> tuple[int, ...]:
        return tuple(action)


class Expert(Grid):
    """What the network's prior does for a single model, without a network: the rates are held and decay late; who is
    left behind takes the weights and values of one of the two best, and moves each of the values by a small step. (The
    prior's starts are other ones by now: weight decay and smoothing anywhere.)"""

    requirements = PolicyRequirements(schedule="late_cosine")

    def _later(self, action: list[int], situation: Situation, rng: np.random.Generator) -> tuple[int, ...]:
        rank = situation.observation[self._observation.index("rank")]
        if situation.observation[self._observation.index("copy_allowed")] and rank > REPLACED:
            action = [int(index + rng.integers(-1, 2)) for index in action]
            action[len(self._action.space)] = self._action.sources.index("best" if rng.random() < 0.6 else "second")
        return tuple(action)
