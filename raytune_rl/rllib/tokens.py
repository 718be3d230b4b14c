"""A meta-trained controller as an agent that goes on learning: its settings and its acting half, without torch.

A run is short, and the agent begins with the weights of a meta-training. So it learns in small steps, with a KL penalty
to its starting weights (Ziegler et al. 2019, eq. 2), and its advantages are relative to the other members' decisions at
the same time (``peers.py``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from raytune_rl.controller.policy import Choice, Situation
from raytune_rl.controller.tokens import IMPOSSIBLE, TokenPolicy, shapes, values
from raytune_rl.hyperparameters import LEVELS
from raytune_rl.mdp.action import SOURCES, ActionSpec
from raytune_rl.mdp.observation import ObservationSpec
from raytune_rl.rllib.network import Weights
from raytune_rl.rllib.settings import Agent
from raytune_rl.rllib.spaces import ACTION_DIST_INPUTS

PARTS = "parts"
"""The attribute of ``token_module.TokenModule`` that holds the parameters."""


@dataclass(frozen=True, kw_only=True)
class TokenAgent(Agent):
    """PPO that continues from the weights of a controller.

    Attributes:
        start: the weights, by the names of ``controller.tokens.shapes``.
        anchor: weight of KL(agent || start) in the loss, at least 0.
    """

    network: ClassVar[str] = "tokens"

    start: Mapping[str, NDArray[Any]] = field(repr=False, compare=False)
    anchor: float = 0.1
    learning_rate: float | None = 1e-4
    gamma: float = 1.0
    batch: int | None = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.algorithm != "PPO":
            raise ValueError(f"TokenAgent.algorithm is {self.algorithm!r}: only PPO goes on from a controller.")
        if not 0 <= self.anchor < np.inf:
            raise ValueError(f"TokenAgent.anchor is {self.anchor!r}: it must be 0 or more.")

    def to_dict(self) -> dict[str, Any]:
        """Plain values without the weights, which a checkpoint holds anyway."""
        return {name: value for name, value in super().to_dict().items() if name != "start"}


def fitted(logits: Any, hyperparameters: int, nvec: Sequence[int], xp: Any) -> Any:
    """The network's logits (N, slots * LEVELS + sources) as those of an action space with heads of sizes ``nvec``.

    Empty slots have no head. Heads after the source (``stop``), which the network does not have, take their first
    option, which changes nothing. ``xp`` is numpy or torch.
    """
    nothing = [0.0 if option == 0 else IMPOSSIBLE for size in nvec[hyperparameters + 1 :] for option in range(size)]
    unknown = [0.0 * logits[:, :1] + value for value in nothing]
    return xp.concatenate([logits[:, : hyperparameters * LEVELS], logits[:, -len(SOURCES) :], *unknown], 1)


def part(name: str) -> str:
    """The module's name for the parameter ``name``: torch does not allow dots."""
    return name.replace(".", "_")


def to_module(weights: Mapping[str, NDArray[Any]]) -> Weights:
    """A controller's weights by the names of the RLModule's state."""
    return {f"{PARTS}.{part(name)}": np.array(value) for name, value in weights.items()}


def from_module(state: Mapping[str, NDArray[Any]]) -> Weights:
    """The inverse of ``to_module``."""
    return {name: np.asarray(state[f"{PARTS}.{part(name)}"], dtype=np.float32) for name in shapes()}


class TokenActing:
    """The acting half: ``controller.tokens.TokenPolicy`` with the newest weights (see ``acting.Acting``)."""

    def __init__(self, agent: TokenAgent, observation: ObservationSpec, action: ActionSpec, *, seed: int) -> None:
        self._hyperparameters, self._nvec = len(action.space), action.nvec
        self._learning = agent.learn
        self._policy = TokenPolicy(agent.start, recording=agent.learn)
        self._policy.bind(observation, action, seed=seed)

    def act(self, situations: Sequence[Situation], *, decisions: int = 0, version: int = 0) -> list[Choice]:
        """One choice per situation; with what a learner needs if the agent learns."""
        self._policy.version = version
        choices = list(self._policy.act(situations))
        if not self._learning:
            return choices
        observations = np.stack([situation.observation for situation in situations]).astype(np.float32)
        state_values = values(self._policy.weights, observations, np).tolist()
        logits = np.array([choice.extras[ACTION_DIST_INPUTS] for choice in choices], dtype=np.float32)
        action_logits = fitted(logits, self._hyperparameters, self._nvec, np).tolist()
        return [
            dataclasses.replace(choice, value=value, extras={**choice.extras, ACTION_DIST_INPUTS: tuple(inputs)})
            for choice, value, inputs in zip(choices, state_values, action_logits, strict=True)
        ]

    def weights(self) -> Weights:
        """A copy of the network's parameters."""
        return to_module(self._policy.weights)

    def set_weights(self, weights: Mapping[str, NDArray[Any]]) -> None:
        """Act with these weights from now on."""
        self._policy.weights = from_module(weights)
