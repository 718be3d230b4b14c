"""A policy that does as it is told, for drivers whose actions come from outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from raytune_rl.controller.policies import Rule
from raytune_rl.controller.policy import Policy, Situation
from raytune_rl.controller.schedule import Schedule
from raytune_rl.mdp.action import ActionSpec
from raytune_rl.mdp.observation import ObservationSpec


class Guided(Rule):
    """Takes the actions that ``tell`` named, and another policy's for everybody else.

    Args:
        otherwise: chooses for members that were told nothing. It learns nothing here.
        schedule: of the learning rates, unless ``otherwise`` insists on one.
    """

    def __init__(self, otherwise: Policy, *, schedule: Schedule | None = None) -> None:
        self.schedule = otherwise.schedule or schedule
        self._otherwise = otherwise
        self._told: dict[int, tuple[int, ...]] = {}

    def bind(self, observation: ObservationSpec, action: ActionSpec, *, seed: int) -> None:
        super().bind(observation, action, seed=seed)
        self._otherwise.bind(observation, action, seed=seed)

    def tell(self, actions: Mapping[int, Sequence[int]]) -> None:
        """The members' next actions, one index per head each; what was told before is forgotten."""
        self._told = {member: tuple(int(index) for index in action) for member, action in actions.items()}

    def choose(self, situation: Situation, rng: np.random.Generator) -> tuple[int, ...]:
        told = self._told.get(situation.member)
        return self._otherwise.act([situation])[0].action if told is None else told

    def __repr__(self) -> str:
        return f"Guided({self._otherwise!r})"
