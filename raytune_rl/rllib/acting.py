"""From a batch of observations to choices: a forward pass of the network, then sampling that no global stream touches.

Exploration is always on (a lower temperature was worse, see learned-control.md). Every situation is sampled with a
generator of its own seed, so that a choice does not depend on who else asks at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.algorithms.dqn.default_dqn_rl_module import QF_PREDS
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModule

from raytune_rl.controller.policy import Choice, Situation
from raytune_rl.mdp.action import ActionSpec
from raytune_rl.rllib.algorithms import ALGORITHMS, build_config
from raytune_rl.rllib.settings import Agent
from raytune_rl.rllib.spaces import (
    ACTION_DIST_INPUTS,
    ACTION_LOGP,
    ACTIONS,
    OBSERVATION_BOUND,
    Binned,
    Encoding,
    Factored,
    Sequential,
    Sizes,
    clean,
)

Floats = NDArray[np.float32]
Weights = dict[str, NDArray[Any]]
"""An RLModule's state: parameters by name."""


def build_module(agent: Agent, sizes: Sizes, *, seed: int) -> RLModule:
    """The network with its starting weights. The same arguments give the same weights in every process, so the actor
    and its acting copy begin alike without talking to each other. Torch's global stream is left as it was."""
    config = build_config(agent, sizes)
    spec = config.get_rl_module_spec(
        spaces={DEFAULT_MODULE_ID: (config.observation_space, config.action_space)},
        inference_only=not ALGORITHMS[agent.algorithm].critic,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module: RLModule = spec.build()
    return module


class ActingCopy:
    """The acting half of an agent: a network and the way its outputs become choices."""

    def __init__(self, agent: Agent, sizes: Sizes, action: ActionSpec, *, seed: int) -> None:
        self.module = build_module(agent, sizes, seed=seed)
        self.module.eval()  # RLlib switches to it and back at every call otherwise
        self._action = action
        self._encoding: Encoding = ALGORITHMS[agent.algorithm].encoding(sizes)
        ways: dict[type[Encoding], Callable[[Floats, Sequence[np.random.Generator], int], list[Choice]]] = {
            Factored: self._categorical,
            Binned: self._squashed,
            Sequential: self._greedy,
        }
        self._choose = ways[type(self._encoding)]

    def act(self, situations: Sequence[Situation], *, decisions: int = 0, version: int = 0) -> list[Choice]:
        """One choice per situation.

        Args:
            situations: at least one.
            decisions: how many have been made so far, for DQN's epsilon.
            version: of the weights, noted in the choices.
        """
        observations = clean(np.stack([s.observation for s in situations]).astype(np.float32), OBSERVATION_BOUND)
        generators = [np.random.Generator(np.random.PCG64(s.seed)) for s in situations]
        with torch.no_grad(), one_thread():
            choices = self._choose(observations, generators, decisions)
        return [replace(choice, version=version) for choice in choices]

    def weights(self) -> Weights:
        """A copy of the network's parameters."""
        return {name: np.array(value) for name, value in self.module.get_state().items()}

    def set_weights(self, weights: Weights) -> None:
        """Act with these from now on."""
        self.module.set_state(weights)

    def _categorical(self, observations: Floats, rngs: Sequence[np.random.Generator], _: int) -> list[Choice]:
        batch = {Columns.OBS: torch.from_numpy(observations)}
        logits = self.module.forward_exploration(batch)[Columns.ACTION_DIST_INPUTS].numpy()
        values = self.module.compute_values(batch).numpy()
        nvec = self._encoding.sizes.nvec
        # Gumbel's trick: the largest of logits + noise is a sample of the softmax.
        noisy = logits + np.stack([rng.gumbel(size=logits.shape[1]) for rng in rngs])
        rows = np.arange(len(logits))
        action = np.empty((len(logits), len(nvec)), dtype=np.int64)
        logp = np.zeros(len(logits))
        start = 0
        for head, size in enumerate(nvec):
            part = slice(start, start + size)
            action[:, head] = noisy[:, part].argmax(axis=1)
            scores = logits[:, part].astype(np.float64)
            top = scores.max(axis=1)
            logp += scores[rows, action[:, head]] - top - np.log(np.exp(scores - top[:, None]).sum(axis=1))
            start += size
        return [
            Choice(
                action=tuple(action[row].tolist()),
                logp=float(logp[row]),
                value=float(values[row]),
                extras={ACTION_DIST_INPUTS: tuple(logits[row].tolist()), ACTION_LOGP: (float(logp[row]),)},
            )
            for row in rows
        ]

    def _squashed(self, observations: Floats, rngs: Sequence[np.random.Generator], _: int) -> list[Choice]:
        outputs = self.module.forward_exploration({Columns.OBS: torch.from_numpy(observations)})
        mean, log_std = np.split(outputs[Columns.ACTION_DIST_INPUTS].numpy(), 2, axis=1)
        noise = np.stack([rng.standard_normal(mean.shape[1], dtype=np.float32) for rng in rngs])
        raw = mean + np.exp(log_std) * noise
        points = np.tanh(raw)
        density = -0.5 * noise**2 - log_std - 0.5 * np.log(2 * np.pi)
        jacobian = 2 * (np.log(2) - raw - np.logaddexp(0, -2 * raw))
        logp = (density - jacobian).sum(axis=1)
        return [
            Choice(
                action=self._action.from_box(points[row]),
                logp=float(logp[row]),
                extras={ACTIONS: tuple(points[row].tolist())},
            )
            for row in range(len(points))
        ]

    def _greedy(self, observations: Floats, rngs: Sequence[np.random.Generator], decisions: int) -> list[Choice]:
        encoding = self._encoding
        assert isinstance(encoding, Sequential)
        schedule = self.module.epsilon_schedule
        epsilon = float(schedule.update(decisions))
        sequence = encoding.start(observations)
        action = np.empty((len(observations), encoding.substeps), dtype=np.int64)
        value = np.zeros(len(observations))
        draws = np.stack([rng.random((2, encoding.substeps)) for rng in rngs])
        explore = draws[:, 0] < epsilon
        options = (draws[:, 1] * encoding.sizes.nvec).astype(np.int64)
        for head in range(encoding.substeps):
            q_values = self.module.compute_q_values({Columns.OBS: torch.from_numpy(sequence)})[QF_PREDS].numpy()
            if head == 0:
                value = q_values.max(axis=1)
            action[:, head] = np.where(explore[:, head], options[:, head], q_values.argmax(axis=1))
            encoding.advance(sequence, head, action[:, head])
        return [Choice(action=tuple(action[row].tolist()), value=float(value[row])) for row in range(len(action))]


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread: the networks are too small to share, and one thread adds up in one order."""
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
