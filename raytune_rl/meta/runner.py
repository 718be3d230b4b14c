"""The EnvRunner of meta-training: plays whole worlds instead of stepping an environment."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from raytune_rl.meta.episodes import episodes_of, play, recorder
from raytune_rl.population.packed.memory import keep_freed_memory
from raytune_rl.rllib.feed import FeedRunner
from raytune_rl.rllib.tokens import from_module
from raytune_rl.worlds.generator import META_TRAIN, World, make_world
from raytune_rl.worlds.tables import table_world

WORLDS = "worlds_per_sample"
"""Key of ``env_config``: number of worlds that a call of ``sample`` plays."""
PACK = "pack"
"""Key of ``env_config``: about how many members train as one program; at least two populations do."""
SEEDS = "meta_seeds"
"""Key of ``env_config``: numbers from which the choice of worlds is seeded."""
TABLES = "tables"
"""Key of ``env_config``: the share of worlds that are real tables."""


class WorldRunner(FeedRunner):
    """Plays worlds of ``META_TRAIN`` with the newest weights: different ones in every call and on every worker."""

    def __init__(self, *, config: Any, **kwargs: Any) -> None:
        super().__init__(config=config, **kwargs)
        keep_freed_memory()  # also in the learner's process, since it has a runner of its own
        if self.worker_index:  # the learner's process, whose runner plays nothing, needs all cores
            torch.set_num_threads(1)
        self._played = 0

    def sample(self, **kwargs: Any) -> list[SingleAgentEpisode]:
        settings = self.config.env_config
        weights = from_module(self.module.get_state())
        device = "cuda" if self.config.num_gpus_per_env_runner else "cpu"
        episodes: list[SingleAgentEpisode] = []
        for _ in range(settings[WORLDS]):
            draw = np.random.SeedSequence([*settings[SEEDS], self.worker_index, self._played])
            world = self.world(int(draw.generate_state(1, np.uint64)[0]) % len(META_TRAIN))
            groups = max(2, settings[PACK] // world.members)
            episodes += episodes_of(play(world, recorder(weights), groups=groups, seed=self._played, device=device))
            self._played += 1
        for episode in episodes:
            episode.to_numpy()  # so that few arrays are sent instead of hundreds
        steps = sum(len(episode) for episode in episodes)
        SingleAgentEnvRunner._increase_sampled_metrics(self, steps, len(episodes))
        return episodes

    def world(self, number: int) -> World:
        """The world with this number of ``META_TRAIN``; override this to train in other worlds."""
        real = np.random.default_rng([number, 0x5A4E]).random() < self.config.env_config[TABLES]
        return table_world(number) if real else make_world(number)
