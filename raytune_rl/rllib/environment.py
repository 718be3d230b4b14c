"""A population as RLlib's multi-agent environment, for RLlib's own training loop.

Runs of this package do not use it: they build episodes from reports (``feed.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from raytune_rl.worlds.environments.population import Outcome, Population


class PopulationMultiAgentEnv(MultiAgentEnv):
    """Every member of a packed population is an agent, ``member_0`` and so on; a step is a segment.

    Args:
        config: RLlib's ``env_config``: the arguments of ``worlds.environments.Population`` (``world``, ``members``,
            ``segments``, ...).

    Example:
        >>> from ray.rllib.algorithms.ppo import PPOConfig
        >>> config = PPOConfig().environment(PopulationMultiAgentEnv, env_config={"world": 3, "members": 4})
        >>> config = config.multi_agent(policies={"shared"}, policy_mapping_fn=lambda agent, *_, **__: "shared")
    """

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self._population = Population(**(config or {}))
        stage = self._population.stage
        self.possible_agents = list(self._population.names)
        self.agents = list(self.possible_agents)
        self.observation_spaces = {name: stage.observation_space for name in self.possible_agents}
        self.action_spaces = {name: spaces.MultiDiscrete(stage.action_space.nvec) for name in self.possible_agents}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
        """A new population. ``options`` are not used."""
        super().reset(seed=seed)
        seen = self._population.reset(seed)
        self.agents = list(self._population.here)
        return seen

    def step(self, action_dict: Mapping[str, np.ndarray]) -> Outcome:
        """One segment of all members."""
        observations, rewards, terminated, truncated, infos = self._population.step(action_dict)
        all_ended = not self._population.here
        failed = all_ended and all(terminated.values())
        terminated["__all__"], truncated["__all__"] = failed, all_ended and not failed
        self.agents = list(self._population.here)
        return observations, rewards, terminated, truncated, infos
