"""Feeds experience into RLlib: an EnvRunner without an environment.

RLlib pulls episodes, while the controller pushes them. ``FeedRunner`` queues the episodes that it is fed and hands them
over when ``Algorithm.train`` asks. It raises where it has none, because RLlib would ask again forever.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import ray
from ray.rllib.core import COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.env import INPUT_ENV_SPACES
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO

from raytune_rl.records import Chunk
from raytune_rl.rllib.spaces import Encoding

SEGMENTS = "segments"
"""Key of an episode's ``custom_data``: the segment that each decision opened."""


class FeedRunner(EnvRunner, Checkpointable):
    """Hands over queued episodes. Its RLModule only holds the newest weights; nothing is sampled here.

    It implements the alpha API of Ray 2.60 (``ray/rllib/env/env_runner.py``).
    """

    def __init__(self, *, config: Any, **kwargs: Any) -> None:
        super().__init__(config=config, **kwargs)
        self.worker_index = kwargs.get("worker_index") or 0
        self.module = self._module()
        self._weights_seq_no = 0
        self._queue: list[Any] = []

    def _module(self) -> Any:
        return self.config.get_rl_module_spec(spaces=self.get_spaces(), inference_only=True).build()

    def feed(self, episodes: Sequence[Any]) -> None:
        """Queue pieces of episodes for the next ``sample``."""
        self._queue += episodes

    def sample(self, **kwargs: Any) -> list[Any]:
        if not self._queue:
            raise RuntimeError("RLlib asked for more experience than it had been fed; see training_intensity.")
        episodes, self._queue = self._queue, []
        steps = sum(episode.agent_steps() for episode in episodes)
        done = sum(episode.is_done for episode in episodes)
        SingleAgentEnvRunner._increase_sampled_metrics(self, steps, done)
        return episodes

    def get_metrics(self) -> Any:
        return self.metrics.reduce()

    def get_spaces(self) -> dict[str, Any]:
        spaces = (self.config.observation_space, self.config.action_space)
        return {INPUT_ENV_SPACES: spaces, DEFAULT_MODULE_ID: spaces}

    def assert_healthy(self) -> None:
        """Always healthy: there is no environment that could fail."""

    def stop(self) -> None:
        self._queue.clear()

    def get_ctor_args_and_kwargs(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (), {"config": self.config}

    def get_checkpointable_components(self) -> list[tuple[str, Any]]:
        return [(COMPONENT_RL_MODULE, self.module)]

    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        return {COMPONENT_RL_MODULE: self.module.get_state(), WEIGHTS_SEQ_NO: self._weights_seq_no}

    def set_state(self, state: dict[str, Any]) -> None:
        weights = state.get(COMPONENT_RL_MODULE)
        if isinstance(weights, ray.ObjectRef):  # APPO
            weights = ray.get(weights)
        if weights is not None:
            self.module.set_state(weights.get(DEFAULT_MODULE_ID, weights))
        self._weights_seq_no = state.get(WEIGHTS_SEQ_NO, 0) or self._weights_seq_no


def episodes(chunks: Sequence[Chunk], encoding: Encoding, numbers: itertools.count[int]) -> list[SingleAgentEpisode]:
    """Each chunk as an RLlib episode of its own.

    An open end counts as truncated: the value of what follows is bootstrapped from the last observation. Ids are
    unique, because RLlib requires pieces with the same id to fit together, which they may not after a crash.
    """
    return [_episode(chunk, encoding, next(numbers)) for chunk in chunks]


def _episode(chunk: Chunk, encoding: Encoding, number: int) -> SingleAgentEpisode:
    rows = encoding.rows(chunk.transitions)
    terminated = chunk.transitions[-1].terminated
    # Without spaces: a replay buffer would copy them with every episode, and they are larger than the steps.
    episode = SingleAgentEpisode(
        id_=f"{chunk.episode}@{chunk.start}#{number}",
        observations=list(rows.observations),
        infos=[{} for _ in rows.observations],
        actions=list(rows.actions),
        rewards=[float(r) for r in rows.rewards],
        terminated=terminated,
        truncated=not terminated,
        extra_model_outputs={name: list(np.asarray(values)) for name, values in rows.outputs.items()},
        len_lookback_buffer=0,
    )
    episode.custom_data[SEGMENTS] = [t.decision.segment for t in chunk.transitions]
    return episode
