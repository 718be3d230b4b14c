"""A policy for drivers whose actions come from outside, such as the environments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from raytune_rl.controller.policies import Rule
from raytune_rl.controller.policy import Choice, Policy, Situation
from raytune_rl.controller.schedule import LearningRateSchedule
from raytune_rl.mdp.action import ActionSpec
from raytune_rl.mdp.observation import ObservationSpec


class Guided(Rule):
    """Takes the actions given to ``tell``, and another policy's for all members that were given none.

    It has the other policy's requirements. Values that these prescribe do not apply to given actions.

    Args:
        otherwise: chooses for members without a given action. It does not learn here.
        schedule: of the learning rates, unless ``otherwise`` requires one.
    """

    def __init__(self, otherwise: Policy, *, schedule: LearningRateSchedule | None = None) -> None:
        required = otherwise.requirements
        self.requirements = replace(required, schedule=required.schedule or schedule)
        self._otherwise = otherwise
        self._actions: dict[int, tuple[int, ...]] = {}

    def bind(self, observation: ObservationSpec, action: ActionSpec, *, seed: int) -> None:
        super().bind(observation, action, seed=seed)
        self._otherwise.bind(observation, action, seed=seed)

    def tell(self, actions: Mapping[int, Sequence[int]]) -> None:
        """Set the members' next actions, one index per head each; earlier ones are forgotten."""
        self._actions = {member: tuple(int(index) for index in action) for member, action in actions.items()}

    def act(self, situations: Sequence[Situation]) -> Sequence[Choice]:
        choices = super().act(situations)
        return [
            replace(choice, ignores_prescribed=True) if situation.member in self._actions else choice
            for situation, choice in zip(situations, choices, strict=True)
        ]

    def choose(self, situation: Situation, rng: np.random.Generator) -> tuple[int, ...]:
        given = self._actions.get(situation.member)
        return self._otherwise.act([situation])[0].action if given is None else given

    def __repr__(self) -> str:
        return f"Guided({self._otherwise!r})"
