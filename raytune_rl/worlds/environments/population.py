"""A population as a system of agents, each steering one member: the rules that PettingZoo and RLlib share.

Their multi-agent interfaces differ in a key of two dictionaries, so the adapters hold nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from gymnasium.utils import seeding

from raytune_rl.worlds.environments.segment import DEFAULT_WORLD, SEEDS
from raytune_rl.worlds.environments.stage import Stage
from raytune_rl.worlds.generator import World

Outcome: TypeAlias = tuple[
    dict[str, np.ndarray], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]
]
"""Observations, rewards, terminated, truncated and infos, by agent."""


class Population:
    """One population in which every member is an agent.

    An agent leaves when its member diverges. The member itself stays: it starts again from its own best weights, and
    ``others`` steers it from there.

    Args:
        world: the task and its population, or the number of a generated one.
        settings: ``members``, ``segments``, ``others``, ``schedule``, ``reward``, ``ensemble`` and ``device``, as
            ``Stage`` takes them.
    """

    def __init__(self, world: World | int = DEFAULT_WORLD, **settings: Any) -> None:
        self.stage = Stage(world, **settings)
        self.names = [f"member_{member}" for member in range(self.stage.world.members)]
        self.here: list[str] = []
        """The agents that have not left."""
        self._generator = np.random.default_rng()

    def reset(self, seed: int | None) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
        """A new population; without a seed, the next one of the generator that the last seed made."""
        if seed is not None:
            self._generator, _ = seeding.np_random(seed)
        self.here = list(self.names)
        seen = self.stage.begin(int(self._generator.integers(SEEDS)))[0]
        return dict(zip(self.names, seen, strict=True)), {name: {} for name in self.names}

    def step(self, actions: Mapping[str, np.ndarray]) -> Outcome:
        """A segment of everybody. An agent without an action leaves its member to ``others`` for this segment.

        Raises:
            ResetNeeded: before ``reset``, or when all agents have left.
            ValueError: an index is missing or outside its head, or an action is for nobody who is here.
        """
        strangers = [name for name in actions if name not in self.here]
        if self.here and strangers:
            raise ValueError(f"there is no agent {strangers[0]!r} now; here are {', '.join(self.here)}")
        told: dict[int, Any] = {self.names.index(name): action for name, action in actions.items()}
        trained = self.stage.step([told])
        acted = {name: self.names.index(name) for name in self.here}
        terminated = {name: bool(trained.terminated[0, member]) for name, member in acted.items()}
        truncated = {name: bool(trained.truncated[0, member]) for name, member in acted.items()}
        self.here = [name for name in self.here if not (terminated[name] or truncated[name])]
        return (
            {name: trained.observations[0, member] for name, member in acted.items()},
            {name: float(trained.rewards[0, member]) for name, member in acted.items()},
            terminated,
            truncated,
            {
                name: {"segment": self.stage.segment, "validation_loss": float(trained.losses[0, member])}
                for name, member in acted.items()
            },
        )
