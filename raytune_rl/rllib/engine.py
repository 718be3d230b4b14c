"""What trains a network inside an ``AgentCore``: a whole RLlib Algorithm, or RLlib's learners alone.

An Algorithm has replay buffers, target networks and a training loop of its own, and needs an initialised Ray (its
runners put their config into the object store). Learners alone only update from batches. They work without Ray, so
hundreds of controllers can learn inside packed worlds in one process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import ray
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.env.single_agent_episode import SingleAgentEpisode


class Engine(Protocol):
    """Trains on episodes. ``learners`` is RLlib's ``LearnerGroup``, ``buffer`` its replay buffer or ``None``."""

    learners: Any
    buffer: Any

    def train(self, episodes: Sequence[SingleAgentEpisode]) -> Mapping[str, Any]:
        """Update from episodes. Returns RLlib's results, the learners' under the key ``learners``."""
        ...

    def save(self, path: Path) -> None:
        """Write RLlib's own checkpoint."""
        ...

    def restore(self, path: Path) -> None: ...

    def close(self) -> None:
        """Release its resources."""
        ...


class AlgorithmEngine:
    """RLlib's Algorithm, fed through ``feed.FeedRunner``."""

    def __init__(self, config: AlgorithmConfig) -> None:
        if not ray.is_initialized():
            # Otherwise RLlib would call ray.init() and join any cluster that it finds.
            raise RuntimeError("A learning agent needs Ray: call ray.init(address='local') first.")
        self._algorithm: Any = config.build_algo()
        self.learners = self._algorithm.learner_group
        self.buffer = getattr(self._algorithm, "local_replay_buffer", None)

    def train(self, episodes: Sequence[SingleAgentEpisode]) -> Mapping[str, Any]:
        self._algorithm.env_runner.feed(episodes)
        result: Mapping[str, Any] = self._algorithm.train()
        return result

    def save(self, path: Path) -> None:
        self._algorithm.save_to_path(str(path))

    def restore(self, path: Path) -> None:
        self._algorithm.restore_from_path(str(path))

    def close(self) -> None:
        self._algorithm.stop()


class LearnersEngine:
    """RLlib's learner group, updated as in ``PPO.training_step``."""

    def __init__(self, config: AlgorithmConfig) -> None:
        self._config: Any = config
        self.learners: Any = config.build_learner_group()
        self.buffer = None

    def train(self, episodes: Sequence[SingleAgentEpisode]) -> Mapping[str, Any]:
        (result,) = self.learners.update(
            episodes=list(episodes),
            num_epochs=self._config.num_epochs,
            minibatch_size=self._config.minibatch_size,
            shuffle_batch_per_epoch=self._config.shuffle_batch_per_epoch,
        )
        return {"learners": {DEFAULT_MODULE_ID: {n: value.peek() for n, value in result[DEFAULT_MODULE_ID].items()}}}

    def save(self, path: Path) -> None:
        self.learners.save_to_path(str(path))

    def restore(self, path: Path) -> None:
        self.learners.restore_from_path(str(path))

    def close(self) -> None:
        self.learners.shutdown()
