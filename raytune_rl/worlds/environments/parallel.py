"""A population as a PettingZoo environment (``pip install 'raytune_rl[envs]'``)."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

from raytune_rl.worlds.environments.population import Outcome, Population
from raytune_rl.worlds.environments.segment import DEFAULT_WORLD
from raytune_rl.worlds.generator import World


class ParallelPopulationEnv(ParallelEnv[str, np.ndarray, np.ndarray]):
    """Every member of a population is an agent: ``member_0`` and so on. All act at once; a step is one segment.

    Spaces, rewards and episodes are those of ``SegmentEnv``, for each agent.

    Args:
        world, settings: as ``Population`` takes them.
    """

    metadata: dict[str, Any] = {"name": "raytune_rl_population_v0", "render_modes": []}  # noqa: RUF012
    render_mode = None

    def __init__(self, world: World | int = DEFAULT_WORLD, **settings: Any) -> None:
        self._population = Population(world, **settings)
        stage = self._population.stage
        self.features, self.heads = stage.features, stage.heads
        self.possible_agents = list(self._population.names)
        self.agents: list[str] = []
        # Each agent has its own action space, so that it can be seeded separately.
        self.observation_spaces = {name: stage.observation_space for name in self.possible_agents}
        self.action_spaces = {name: spaces.MultiDiscrete(stage.action_space.nvec) for name in self.possible_agents}

    def observation_space(self, agent: str) -> spaces.Box:
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.MultiDiscrete:
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
        """A new population. ``options`` are not used."""
        observations_and_infos = self._population.reset(seed)
        self.agents = list(self._population.here)
        return observations_and_infos

    def step(self, actions: dict[str, np.ndarray]) -> Outcome:
        """Train all members for one segment. Agents whose episode ends with it leave ``agents``."""
        outcome = self._population.step(actions)
        self.agents = list(self._population.here)
        return outcome
