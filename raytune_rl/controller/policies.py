"""Rules that do not learn: the baselines that an agent has to beat.

They implement the same protocol as the learning agents, so a comparison changes one argument of the experiment and
nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from raytune_rl.controller.policy import Choice, PolicyRequirements, Prescription, Situation
from raytune_rl.hyperparameters import STAY
from raytune_rl.mdp.action import ActionSpec
from raytune_rl.mdp.observation import ObservationSpec
from raytune_rl.records import Chunk


class Rule(ABC):
    """A policy that neither learns nor keeps a state. Subclasses implement ``choose``, for one situation."""

    requirements = PolicyRequirements()

    def bind(self, observation: ObservationSpec, action: ActionSpec, *, seed: int) -> None:
        self._observation, self._action = observation, action

    @abstractmethod
    def choose(self, situation: Situation, rng: np.random.Generator) -> tuple[int, ...]:
        """One index per head of the action space; ``rng`` is this decision's own."""

    def act(self, situations: Sequence[Situation]) -> Sequence[Choice]:
        return [Choice(action=self.choose(s, np.random.default_rng(s.seed))) for s in situations]

    def learn(self, chunks: Sequence[Chunk], *, wait: bool = False) -> None:
        """Nothing to learn."""

    def get_state(self) -> dict[str, Any]:
        return {}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Nothing to restore."""

    def save(self, directory: str, *, wait: bool = True) -> bool:
        return False

    def restore(self, directory: str) -> None:
        """Nothing to restore."""

    def close(self) -> None:
        """Nothing to release."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Random(Rule):
    """Every head uniformly at random: what a population with copies is worth without an agent."""

    def choose(self, situation: Situation, rng: np.random.Generator) -> tuple[int, ...]:
        return tuple(int(rng.integers(size)) for size in self._action.nvec)


class Fixed(Rule):
    """Never changes anything: every member trains to the end with its starting values (a static search)."""

    def choose(self, situation: Situation, rng: np.random.Generator) -> tuple[int, ...]:
        if not situation.first:
            return self._action.neutral
        # Starting values have no "stay": draw them, as random search does.
        return tuple(int(rng.integers(size)) for size in self._action.nvec)


class Cosine(Fixed):
    """A static search under a cosine learning-rate schedule over the whole run."""

    requirements = PolicyRequirements(schedule="cosine")


class Replay(Fixed):
    """Repeats recorded hyperparameters segment by segment. Each member keeps its own weights.

    Args:
        values: the hyperparameters of each segment, from the first. Members that train longer keep the last ones.

    Raises:
        ValueError: ``values`` is empty.
    """

    def __init__(self, values: Prescription) -> None:
        if not values:
            raise ValueError("Replay needs the values of at least one segment.")
        self._values = tuple(dict(segment) for segment in values)
        self.requirements = PolicyRequirements(prescribed=self._values)

    def __repr__(self) -> str:
        return f"Replay({len(self._values)} segments)"


class PBT(Rule):
    """Population Based Training (Jaderberg et al. 2017, section 4): truncation selection, then perturbation.

    The worst ``quantile`` of the population takes the weights and hyperparameters of one of the two best (Ray's
    implementation draws from the whole upper quantile) and perturbs every value by one small step up or down.

    Args:
        quantile: share of the population that is replaced, in (0, 0.5].

    Raises:
        ValueError: ``quantile`` is outside that range.
    """

    def __init__(self, *, quantile: float = 0.25) -> None:
        if not 0.0 < quantile <= 0.5:
            raise ValueError(f"PBT.quantile is {quantile}; it must lie in (0, 0.5].")
        self.quantile = quantile

    def choose(self, situation: Situation, rng: np.random.Generator) -> tuple[int, ...]:
        if situation.first:
            return tuple(int(rng.integers(size)) for size in self._action.nvec)
        rank = float(situation.observation[self._observation.index("rank")])
        action = list(self._action.neutral)
        sources = [i for i, name in enumerate(self._action.sources) if name in ("best", "second")]
        if rank <= 1.0 - self.quantile or not sources:
            return tuple(action)
        for i, head in enumerate(self._action.heads):
            if head.name == "source":
                action[i] = sources[int(rng.integers(len(sources)))]
            elif head.name.startswith("hp/"):
                action[i] = STAY + (1 if rng.random() < 0.5 else -1)
        return tuple(action)

    def __repr__(self) -> str:
        return f"PBT(quantile={self.quantile})"
