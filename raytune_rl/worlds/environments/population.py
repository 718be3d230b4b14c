"""A population as a system of agents, each steering one member: what the PettingZoo and RLlib environments share.

Those two multi-agent interfaces differ only in one key of two dictionaries, so their adapters are thin.
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

    An agent leaves when its member diverges. The member itself stays: it restarts from its own best weights, and from
    then on ``others`` steers it.

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
        """A new population: from ``seed``, or without one from the next random number after the last seed."""
        if seed is not None:
            self._generator, _ = seeding.np_random(seed)
        self.here = list(self.names)
        observations = self.stage.begin(int(self._generator.integers(SEEDS)))[0]
        return dict(zip(self.names, observations, strict=True)), {name: {} for name in self.names}

    def step(self, actions: Mapping[str, np.ndarray]) -> Outcome:
        """Train all members for one segment. Members without an action follow ``others`` for this segment.

        Raises:
            ResetNeeded: before ``reset``, or when all agents have left.
            ValueError: an index is missing or outside its head, or an action is for an agent that is not there.
        """
        unknown = [name for name in actions if name not in self.here]
        if self.here and unknown:
            raise ValueError(f"there is no agent {unknown[0]!r} now; here are {', '.join(self.here)}")
        by_member: dict[int, Any] = {self.names.index(name): action for name, action in actions.items()}
        trained = self.stage.step([by_member])
        members = {name: self.names.index(name) for name in self.here}
        terminated = {name: bool(trained.terminated[0, member]) for name, member in members.items()}
        truncated = {name: bool(trained.truncated[0, member]) for name, member in members.items()}
        self.here = [name for name in self.here if not (terminated[name] or truncated[name])]
        return (
            {name: trained.observations[0, member] for name, member in members.items()},
            {name: float(trained.rewards[0, member]) for name, member in members.items()},
            terminated,
            truncated,
            {
                name: {"segment": self.stage.segment, "validation_loss": float(trained.losses[0, member])}
                for name, member in members.items()
            },
        )
