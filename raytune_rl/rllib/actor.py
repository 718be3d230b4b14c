"""Where learning happens: the RLlib Algorithm, what it needs fed, and what must survive of it.

``AgentCore`` is a plain object: inside a Ray actor it learns beside a running experiment, in one's own process it
serves tests and packed worlds. All random streams that RLlib draws from are the core's own, and part of its checkpoint.
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
"""What a checkpoint holds beside the weights (``saved.py``): buffer and random streams, and RLlib's own."""

PACE = 4
"""Trainings per learn call at most, however much has piled up: new weights must not be long in coming."""

log = logging.getLogger(__name__)


class AgentCore:
    """Owns RLlib's part (``engine``). Called by one thread.

    Args:
        agent: the settings.
        sizes: of observation and action.
        seed: for everything random here.
        checkpoint: a directory of ``checkpoints`` to start from.
        weights: newer weights than the checkpoint's, from the acting side of a learner that died; with ``version``.
        version: the least version to count on from.
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
        self._way = TRAITS[agent.algorithm]
        self._encoding = self._way.encoding(sizes)
        self._team = Team.of(agent, sizes)
        modules = {} if self._team is None else self._team.modules
        self._encodings = {name: self._way.encoding(seen) for name, seen in modules.items()}
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
            size = everything if self._way.on_policy else max(batch_size(self._agent), everything // PACE)
            for group in experience.batches(chunks, max(size, 1)):
                for _ in range(self._way.passes):
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
        """The newest weights, as far as the acting copy needs them."""
        state = self._engine.learners.get_state(
            components=f"{COMPONENT_LEARNER}/{COMPONENT_RL_MODULE}", inference_only=not self._way.critic
        )
        modules = state[COMPONENT_LEARNER][COMPONENT_RL_MODULE]
        if self._team is not None:
            found = joined({name: modules[name] for name in self._team.modules})
        else:
            found = modules[DEFAULT_MODULE_ID]
        return {name: np.array(value) for name, value in found.items()}

    def save(self, directory: str) -> bool:
        """Write a new generation into ``directory``; ``False`` (and a warning) when the disk does not take it."""
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
        """Go on from the newest complete generation in ``directory``.

        Raises:
            ValueError: there is none, or it was made for other spaces or another algorithm.
        """
        found = load(directory, self._agent, self._sizes)
        self._engine.restore(found.path / ALGORITHM)
        kept = pickle.loads((found.path / STATE).read_bytes())
        self._set_learner_state(kept["learner"])
        if self._buffer is not None and kept["buffer"] is not None:
            self._buffer.set_state(kept["buffer"])
            self._buffer.rng = kept["buffer_rng"]
        self._streams = kept["streams"]
        self._numbers = itertools.count(kept["number"])
        record = found.record
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
        kept = {
            "buffer": self._buffer.get_state() if self._buffer is not None else None,
            "buffer_rng": self._buffer.rng if self._buffer is not None else None,
            "learner": self._learner_state(),
            "streams": self._streams,
            "number": number,
        }
        (path / STATE).write_bytes(pickle.dumps(kept))

    def _counters(self) -> dict[str, int]:
        return {"version": self.version, "transitions": self.transitions, "calls": self.calls}

    def _update(self, weights: Weights | None, result: Mapping[str, Any] | None = None) -> Update:
        return Update(weights=weights, metrics=_scalars(result or {}), **self._counters())

    def _learner_state(self) -> dict[str, Any]:
        """Network, optimiser, and the variables that RLlib's own state leaves out; nothing is shared with them."""
        names = [f"{COMPONENT_LEARNER}/{part}" for part in (COMPONENT_RL_MODULE, COMPONENT_OPTIMIZER)]
        state = self._engine.learners.get_state(components=names)
        extras = self._on_learner(_get_extras)
        return copy.deepcopy({"group": state, "extras": extras})

    def _set_learner_state(self, state: dict[str, Any]) -> None:
        # RLlib skips weights whose number is lower than the learner's, which is just what going back means; 0 forces.
        group = copy.deepcopy(state["group"])
        group[COMPONENT_LEARNER][WEIGHTS_SEQ_NO] = 0
        self._engine.learners.set_state(group)
        self._on_learner(lambda learner: _set_extras(learner, state["extras"]))

    def _on_learner(self, function: Callable[[Any], Any]) -> Any:
        (answer,) = self._engine.learners.foreach_learner(function)
        return answer.get()

    def _set_weights(self, weights: Weights) -> None:
        """Into the learner and its target networks."""
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
    """The global random streams, as far as RLlib uses them, swapped for one's own while a ``with`` block runs."""

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
    found = {name: getattr(learner, name) for name in EXTRAS if hasattr(learner, name)}
    return {n: {k: v.detach().cpu().numpy() for k, v in tensors.items()} for n, tensors in found.items()}


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
    """RLlib's numbers of the modules (losses, entropy, gradient norm); with the module's name where it has one."""
    found: dict[str, float] = {}
    for module, numbers in result.get("learners", {}).items():
        prefix = "" if module == DEFAULT_MODULE_ID else f"{module}/"
        if module != ALL_MODULES:
            scalars = {name: value for name, value in numbers.items() if isinstance(value, int | float | np.number)}
            found |= {f"{prefix}{name}": float(value) for name, value in scalars.items()}
    return found
