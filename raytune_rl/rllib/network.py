"""The acting half of RLlib's default networks, in numpy.

A decision needs one small forward pass. RLlib's module needs milliseconds for it, and importing RLlib delays the first
trial by seconds. So the driver multiplies the matrices itself. The learner, in its own process, has the module, and
weights are exchanged under the module's own parameter names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from raytune_rl.rllib.settings import Agent
from raytune_rl.rllib.spaces import Sizes
from raytune_rl.rllib.traits import TRAITS

Floats: TypeAlias = NDArray[np.float32]
Weights: TypeAlias = dict[str, NDArray[Any]]
"""Parameters by their names in the RLModule's state."""

Activation: TypeAlias = Literal["tanh", "relu"]

LOG_STD_BOUND = 20.0
"""RLlib clips the logarithm of a Gaussian policy's standard deviation to [-20, 20]."""


@dataclass(frozen=True, kw_only=True)
class Mlp:
    """Dense layers with an activation after each except the last.

    Attributes:
        layers: the names of the layers' parameters, without ``.weight`` and ``.bias``.
        widths: of the input and of every layer's output; one more than ``layers``.
        activation: ``tanh`` or ``relu``.
    """

    layers: tuple[str, ...]
    widths: tuple[int, ...]
    activation: Activation

    def initial(self, rng: np.random.Generator) -> Weights:
        """Torch's default: weights and biases uniform within 1 / sqrt(inputs)."""
        weights: Weights = {}
        for name, inputs, outputs in zip(self.layers, self.widths, self.widths[1:], strict=False):
            bound = 1.0 / np.sqrt(inputs)
            weights[f"{name}.weight"] = rng.uniform(-bound, bound, (outputs, inputs)).astype(np.float32)
            weights[f"{name}.bias"] = rng.uniform(-bound, bound, outputs).astype(np.float32)
        return weights

    def forward(self, weights: Mapping[str, NDArray[Any]], inputs: Floats) -> Floats:
        """Outputs of shape (N, last width) for ``inputs`` of shape (N, first width)."""
        values = inputs
        for index, name in enumerate(self.layers):
            values = values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
            if index + 1 < len(self.layers):
                values = np.tanh(values) if self.activation == "tanh" else np.maximum(values, 0.0)
        return values


def body_and_head(hidden: Sequence[int]) -> tuple[list[int], list[int]]:
    """The hidden layers of RLlib's encoder and head for DQN and SAC: of several layers the head gets the last one."""
    return (list(hidden), []) if len(hidden) == 1 else (list(hidden[:-1]), list(hidden[-1:]))


def networks(agent: Agent, sizes: Sizes) -> dict[str, Mlp]:
    """The parts of the acting network: ``policy`` and, where the algorithm has them, ``value`` or ``q``."""
    traits = TRAITS[agent.algorithm]
    (observation,) = traits.encoding(sizes).observation_space.shape or ()
    if agent.algorithm == "DQN":
        body, head = body_and_head(agent.hidden)
        return {"q": _mlp("encoder", body, "af", head, observation, max(sizes.nvec), "relu")}
    if agent.algorithm == "SAC":
        body, head = body_and_head(agent.hidden)
        return {"policy": _mlp("pi_encoder", body, "pi", head, observation, 2 * len(sizes.nvec), "relu")}
    hidden = list(agent.hidden)
    return {
        "policy": _mlp("encoder.actor_encoder", hidden, "pi", [], observation, sum(sizes.nvec), "tanh"),
        "value": _mlp("encoder.critic_encoder", hidden, "vf", [], observation, 1, "tanh"),
    }


def initial_weights(agent: Agent, sizes: Sizes, *, seed: int) -> Weights:
    """Starting weights. They depend on the arguments only, so the learner and the acting copy begin with the same ones
    without communication."""
    rng = np.random.default_rng([seed, 0xAC7])
    return {name: value for mlp in networks(agent, sizes).values() for name, value in mlp.initial(rng).items()}


def _mlp(
    encoder: str,
    body: Sequence[int],
    head: str,
    middle: Sequence[int],
    inputs: int,
    outputs: int,
    activation: Activation,
) -> Mlp:
    """RLlib's encoder and head as one network. RLlib also numbers the activations, so layers have even numbers."""
    layers = [f"{encoder}.net.mlp.{2 * index}" for index in range(len(body))]
    layers += [f"{head}.net.mlp.{2 * index}" for index in range(len(middle) + 1)]
    return Mlp(layers=tuple(layers), widths=(inputs, *body, *middle, outputs), activation=activation)
