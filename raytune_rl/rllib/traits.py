"""What the acting side knows of each algorithm. Imports neither torch nor RLlib, so that a driver starts at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from raytune_rl.rllib.settings import Agent
from raytune_rl.rllib.spaces import Binned, Encoding, Factored, Sequential

Epsilon: TypeAlias = float | Sequence[tuple[float, float]]
"""RLlib's notation for a schedule: a constant, or (step, value) points to be joined by lines, flat after the last."""


@dataclass(frozen=True, kw_only=True)
class Traits:
    """How one of RLlib's algorithms is used here; ``algorithms.py`` has its configuration.

    Attributes:
        encoding: its view of decisions.
        batch: transitions per call of the learner, unless the agent says otherwise.
        on_policy: whether it learns from fresh transitions only, so that old ones are dropped.
        critic: whether the acting copy keeps the value function, to tell what it expects.
        passes: how often each batch is handed to RLlib.
        epsilon: by decisions made, how often an option is drawn at random.
    """

    encoding: type[Encoding]
    batch: int
    on_policy: bool = False
    critic: bool = False
    passes: int = 1
    epsilon: Epsilon = 0.0


TRAITS: dict[str, Traits] = {
    "PPO": Traits(encoding=Factored, batch=64, on_policy=True, critic=True),
    "APPO": Traits(encoding=Factored, batch=64, critic=True, passes=6),
    "DQN": Traits(encoding=Sequential, batch=16, epsilon=((0, 0.8), (1000, 0.05))),
    "SAC": Traits(encoding=Binned, batch=16),
}


def batch_size(agent: Agent) -> int:
    """Transitions per call of the learner."""
    return agent.batch or TRAITS[agent.algorithm].batch


def epsilon_at(agent: Agent, decisions: int) -> float:
    """The share of random options after so many decisions."""
    epsilon: Epsilon = agent.training.get("epsilon", TRAITS[agent.algorithm].epsilon)
    if isinstance(epsilon, int | float):
        return float(epsilon)
    steps, values = zip(*epsilon, strict=True)
    return float(np.interp(decisions, steps, values))
