"""The learner: the RLlib Algorithm, with its experience, its random streams and its checkpoints.

``AgentCore`` is a plain object. Inside a Ray actor it learns beside a running experiment; in the caller's process it
serves tests and packed worlds. It has random streams of its own for RLlib, which are part of its checkpoint.
"""

from __future__ import annotations

import copy
import itertools
import logging
import pickle
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_OPTIMIZER, COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.core.learner.utils import update_target_network
from ray.rllib.core.rl_module.apis import TargetNetworkAPI
from ray.rllib.utils.metrics import ALL_MODULES, WEIGHTS_SEQ_NO

from raytune_rl.records import Chunk
from raytune_rl.rllib import checkpoints, experience, feed, team_feed
from raytune_rl.rllib.algorithms import build_config
from raytune_rl.rllib.engine import AlgorithmEngine, Engine, LearnersEngine
from raytune_rl.rllib.link import Update
from raytune_rl.rllib.network import Weights
from raytune_rl.rllib.saved import WEIGHTS, load
from raytune_rl.rllib.settings import Agent
from raytune_rl.rllib.spaces import Sizes
from raytune_rl.rllib.team import Team, joined, separated, starting_weights
from raytune_rl.rllib.tokens import TokenAgent, to_module
from raytune_rl.rllib.traits import TRAITS, batch_size

STATE, ALGORITHM = "state.pkl", "algorithm"
"""What a checkpoint holds besides the weights (``saved.py``): replay buffer and random streams; RLlib's checkpoint."""

PACE = 4
"""Most updates per learn call, however much experience has arrived, so that new weights are not delayed."""

log = logging.getLogger(__name__)


class AgentCore:
    """Owns RLlib's part (``engine``). Not thread-safe.

    Args:
        agent: the settings.
        sizes: of observation and action.
        seed: all randomness derives from it.
        checkpoint: a directory of ``checkpoints`` to start from.
        weights: newer weights than the checkpoint's, from the acting copy after a learner has died.
        version: of these weights; later versions are higher.
    """

    def __init__(
        self,
        agent: Agent,
        sizes: Sizes,
        *,
        seed: int,
        checkpoint: str | None = None,
        weights: Weights | None = None,
        version: int = 0,
    ) -> None:
        self._agent, self._sizes = agent, sizes
        self._traits = TRAITS[agent.algorithm]
        self._encoding = self._traits.encoding(sizes)
        self._team = Team.of(agent, sizes)
        modules = {} if self._team is None else self._team.modules
        self._encodings = {name: self._traits.encoding(seen) for name, seen in modules.items()}
        self._numbers = itertools.count()
        self._streams = _Streams(seed)
        self.version, self.transitions, self.calls = 0, 0, 0
        with self._streams:
            config = build_config(agent, sizes)
            self._engine: Engine = (LearnersEngine if isinstance(agent, TokenAgent) else AlgorithmEngine)(config)
        self._buffer = self._engine.buffer
        if self._buffer is not None:
            self._buffer.rng = np.random.default_rng(seed)
        if isinstance(agent, TokenAgent):
            self._set_weights(to_module(agent.start))
        else:
            self._set_weights(starting_weights(agent, sizes, seed=seed))
        if checkpoint is not None:
            self.restore(checkpoint)
        if weights is not None:
            self._set_weights(weights)
        self.version = max(self.version, version)
        self._good = self._learner_state()

    def learn(self, chunks: Sequence[Chunk]) -> Update:
        """Learn from transitions whose decisions carry what the algorithm needs (``Encoding.needs``)."""
        with self._streams:
            result: Mapping[str, Any] = {}
            everything = experience.count(chunks)
            size = everything if self._traits.on_policy else max(batch_size(self._agent), everything // PACE)
            for group in experience.batches(chunks, max(size, 1)):
                for _ in range(self._traits.passes):
                    result = self._engine.train(self._episodes(group))
        self.calls += 1
        self.transitions += everything
        state = self._learner_state()
        if not _finite(state):
            log.warning("An update made the agent's network NaN or infinite; it goes on from the one before.")
            self._set_learner_state(self._good)
            return self._update(None)
        self._good = state
        self.version += 1
        return self._update(self.weights(), result)

    def _episodes(self, group: Sequence[Chunk]) -> Sequence[Any]:
        if self._team is not None:
            return team_feed.episodes(group, self._team, self._encodings, self._numbers)
        return feed.episodes(group, self._encoding, self._numbers)

    def weights(self) -> Weights:
        """The newest weights of the parts that the acting copy has."""
        state = self._engine.learners.get_state(
            components=f"{COMPONENT_LEARNER}/{COMPONENT_RL_MODULE}", inference_only=not self._traits.critic
        )
        modules = state[COMPONENT_LEARNER][COMPONENT_RL_MODULE]
        if self._team is not None:
            weights = joined({name: modules[name] for name in self._team.modules})
        else:
            weights = modules[DEFAULT_MODULE_ID]
        return {name: np.array(value) for name, value in weights.items()}

    def save(self, directory: str) -> bool:
        """Write a new generation into ``directory``. Returns ``False``, with a warning, if it cannot be written."""
        record = {
            "agent": self._agent.to_dict(),
            "network": self._agent.network,
            "features": list(self._sizes.features),
            "heads": list(self._sizes.heads),
            "nvec": list(self._sizes.nvec),
            **self._counters(),
        }
        try:
            checkpoints.write(directory, self._fill, record)
        except OSError as error:
            log.warning("The agent could not be saved to %s (%s); the checkpoint before is kept.", directory, error)
            return False
        return True

    def restore(self, directory: str) -> Update:
        """Continue from the newest complete generation in ``directory``.

        Raises:
            ValueError: there is none, or it was made for other spaces or another algorithm.
        """
        checkpoint = load(directory, self._agent, self._sizes)
        self._engine.restore(checkpoint.path / ALGORITHM)
        state = pickle.loads((checkpoint.path / STATE).read_bytes())
        self._set_learner_state(state["learner"])
        if self._buffer is not None and state["buffer"] is not None:
            self._buffer.set_state(state["buffer"])
            self._buffer.rng = state["buffer_rng"]
        self._streams = state["streams"]
        self._numbers = itertools.count(state["number"])
        record = checkpoint.record
        self.version, self.transitions, self.calls = record["version"], record["transitions"], record["calls"]
        self._good = self._learner_state()
        return self._update(self.weights())

    def close(self) -> None:
        """Stop RLlib's threads and release what it holds."""
        self._engine.close()

    def _fill(self, path: Path) -> None:
        self._engine.save(path / ALGORITHM)
        weights: dict[str, Any] = self.weights()
        np.savez(path / WEIGHTS, **weights)
        number = next(self._numbers)
        state = {
            "buffer": self._buffer.get_state() if self._buffer is not None else None,
            "buffer_rng": self._buffer.rng if self._buffer is not None else None,
            "learner": self._learner_state(),
            "streams": self._streams,
            "number": number,
        }
        (path / STATE).write_bytes(pickle.dumps(state))

    def _counters(self) -> dict[str, int]:
        return {"version": self.version, "transitions": self.transitions, "calls": self.calls}

    def _update(self, weights: Weights | None, result: Mapping[str, Any] | None = None) -> Update:
        return Update(weights=weights, metrics=_scalars(result or {}), **self._counters())

    def _learner_state(self) -> dict[str, Any]:
        """A copy of network, optimiser, and the variables that RLlib's own state leaves out."""
        names = [f"{COMPONENT_LEARNER}/{part}" for part in (COMPONENT_RL_MODULE, COMPONENT_OPTIMIZER)]
        state = self._engine.learners.get_state(components=names)
        extras = self._on_learner(_get_extras)
        return copy.deepcopy({"group": state, "extras": extras})

    def _set_learner_state(self, state: dict[str, Any]) -> None:
        # RLlib ignores weights with a lower sequence number than the learner's, which older ones have; 0 forces it.
        group = copy.deepcopy(state["group"])
        group[COMPONENT_LEARNER][WEIGHTS_SEQ_NO] = 0
        self._engine.learners.set_state(group)
        self._on_learner(lambda learner: _set_extras(learner, state["extras"]))

    def _on_learner(self, function: Callable[[Any], Any]) -> Any:
        (answer,) = self._engine.learners.foreach_learner(function)
        return answer.get()

    def _set_weights(self, weights: Weights) -> None:
        """Set the weights of the learner and its target networks."""
        modules = {DEFAULT_MODULE_ID: weights} if self._team is None else separated(weights)
        self._engine.learners.set_weights(modules)

        def follow(learner: Any) -> None:
            for name in modules:
                module = learner.module[name].unwrapped()
                if isinstance(module, TargetNetworkAPI):
                    for main, target in module.get_target_network_pairs():
                        update_target_network(main_net=main, target_net=target, tau=1.0)

        self._on_learner(follow)


class _Streams:
    """Replaces the global random streams that RLlib uses by streams of its own while a ``with`` block runs."""

    def __init__(self, seed: int) -> None:
        self._own: tuple[Any, ...] = (
            random.Random(seed).getstate(),
            np.random.RandomState(seed % 2**32).get_state(),
            torch.Generator().manual_seed(seed).get_state(),
        )
        self._others: tuple[Any, ...] | None = None

    def __enter__(self) -> None:
        self._others = _global_streams()
        _set_global_streams(self._own)

    def __exit__(self, *exception: object) -> None:
        self._own = _global_streams()
        _set_global_streams(self._others)
        self._others = None


def _global_streams() -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state(), torch.random.get_rng_state()


def _set_global_streams(states: Any) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.random.set_rng_state(states[2])


EXTRAS = ("curr_log_alpha", "curr_kl_coeffs_per_module")
"""Tensors of a learner, by module, that RLlib 2.60 neither saves nor restores: SAC's temperature, KL coefficients."""


def _get_extras(learner: Any) -> dict[str, dict[str, NDArray[Any]]]:
    extras = {name: getattr(learner, name) for name in EXTRAS if hasattr(learner, name)}
    return {n: {k: v.detach().cpu().numpy() for k, v in tensors.items()} for n, tensors in extras.items()}


def _set_extras(learner: Any, extras: Mapping[str, Mapping[str, NDArray[Any]]]) -> None:
    for name, values in extras.items():
        for module, value in values.items():
            getattr(learner, name)[module].data.copy_(torch.from_numpy(np.asarray(value)))


def _finite(tree: Any) -> bool:
    if isinstance(tree, Mapping):
        return all(_finite(value) for value in tree.values())
    if isinstance(tree, np.ndarray) and tree.dtype.kind == "f":
        return bool(np.isfinite(tree).all())
    return True


def _scalars(result: Mapping[str, Any]) -> dict[str, float]:
    """RLlib's metrics of the modules (losses, entropy, gradient norm); for several modules prefixed by their names."""
    metrics: dict[str, float] = {}
    for module, numbers in result.get("learners", {}).items():
        prefix = "" if module == DEFAULT_MODULE_ID else f"{module}/"
        if module != ALL_MODULES:
            scalars = {name: value for name, value in numbers.items() if isinstance(value, int | float | np.number)}
            metrics |= {f"{prefix}{name}": float(value) for name, value in scalars.items()}
    return metrics
