"""What the acting side knows of each algorithm. Imports neither torch nor RLlib, so that a driver starts fast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from raytune_rl.rllib.settings import Agent
from raytune_rl.rllib.spaces import Binned, Encoding, Factored, Sequential

Epsilon: TypeAlias = float | Sequence[tuple[float, float]]
"""RLlib's notation for a schedule: a constant, or (step, value) points with linear interpolation between them."""


@dataclass(frozen=True, kw_only=True)
class Traits:
    """How one of RLlib's algorithms is used here; ``algorithms.py`` has its configuration.

    Attributes:
        encoding: how decisions look to it.
        batch: transitions per call of the learner, unless the agent sets another number.
        on_policy: whether it learns from fresh transitions only, so that old ones are dropped.
        critic: whether the acting copy has the value function, to report its estimates.
        passes: how often each batch is given to RLlib.
        epsilon: probability of a random option, by the number of decisions so far.
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
    """The probability of a random option after so many decisions."""
    epsilon: Epsilon = agent.training.get("epsilon", TRAITS[agent.algorithm].epsilon)
    if isinstance(epsilon, int | float):
        return float(epsilon)
    steps, values = zip(*epsilon, strict=True)
    return float(np.interp(decisions, steps, values))
