"""Encodings: how the controller's decisions look to each algorithm, as spaces and as the rows that a learner gets.

The controller's action has one index per head. PPO and APPO take it as it is; SAC needs a point in a box, DQN a single
index at a time. All differences are here, so that the controller and the records do not depend on the algorithm.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from raytune_rl.mdp.action import ActionSpec
from raytune_rl.mdp.observation import ObservationSpec
from raytune_rl.records import Transition

OBSERVATION_BOUND = 4.0
REWARD_BOUND = 10.0
"""Rewards lie mostly in [-2, 2]. They are clipped here, because an outlier can ruin a network."""

ACTIONS = "actions"
ACTION_DIST_INPUTS = "action_dist_inputs"
ACTION_LOGP = "action_logp"
"""RLlib's names (``ray.rllib.core.columns.Columns``), repeated so that this file needs no Ray."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The shapes that an agent is built for; saved with its checkpoint and compared when it is loaded.

    Attributes:
        features: names of the observation's features.
        heads: names of the action's heads.
        nvec: number of choices per head.
        roles: of the hyperparameters, which the first heads set.
    """

    features: tuple[str, ...]
    heads: tuple[str, ...]
    nvec: tuple[int, ...]
    roles: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.features or not self.nvec or len(self.heads) != len(self.nvec) or min(self.nvec) < 1:
            raise ValueError(f"An agent needs features and heads with at least one choice each, not {self}.")

    @classmethod
    def of(cls, observation: ObservationSpec, action: ActionSpec) -> Sizes:
        """The shapes of an experiment's decision process."""
        return cls(
            features=tuple(observation.features),
            heads=action.names,
            nvec=action.nvec,
            roles=tuple(h.role for h in action.space),
        )


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A piece of an episode as an algorithm sees it: T steps, T + 1 observations."""

    observations: NDArray[np.float32]
    actions: NDArray[np.generic]
    rewards: NDArray[np.float32]
    outputs: dict[str, NDArray[np.float32]]


class Encoding(ABC):
    """Converts decisions for one kind of algorithm.

    Attributes:
        substeps: steps of the algorithm per decision.
        needs: extras that a decision must carry to be learned from.
    """

    substeps: int = 1
    needs: tuple[str, ...] = ()

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes
        self.observation_space = _box(OBSERVATION_BOUND, len(sizes.features))

    @property
    @abstractmethod
    def action_space(self) -> gym.Space:
        """The action space that RLlib gets."""

    @abstractmethod
    def rows(self, transitions: Sequence[Transition]) -> Rows:
        """Consecutive transitions of one episode, for the learner."""


class Factored(Encoding):
    """PPO and APPO: one categorical distribution per head."""

    needs = (ACTION_DIST_INPUTS, ACTION_LOGP)

    @property
    def action_space(self) -> gym.Space:
        return gym.spaces.MultiDiscrete(np.asarray(self.sizes.nvec, dtype=np.int64))

    def rows(self, transitions: Sequence[Transition]) -> Rows:
        extras = [t.decision.extras for t in transitions]
        return Rows(
            observations=_observations(transitions),
            actions=np.asarray([t.decision.action for t in transitions], dtype=np.int64),
            rewards=_rewards(transitions),
            outputs={
                ACTION_DIST_INPUTS: np.asarray([e[ACTION_DIST_INPUTS] for e in extras], dtype=np.float32),
                ACTION_LOGP: np.asarray([e[ACTION_LOGP][0] for e in extras], dtype=np.float32),
            },
        )


class Binned(Encoding):
    """SAC: a number in [-1, 1] per head, which ``ActionSpec.from_box`` converts into an index."""

    needs = (ACTIONS,)

    @property
    def action_space(self) -> gym.Space:
        return _box(1.0, len(self.sizes.nvec))

    def rows(self, transitions: Sequence[Transition]) -> Rows:
        return Rows(
            observations=_observations(transitions),
            actions=np.asarray([t.decision.extras[ACTIONS] for t in transitions], dtype=np.float32),
            rewards=_rewards(transitions),
            outputs={},
        )


class Sequential(Encoding):
    """DQN: one head after the other. A decision is ``H`` steps; the last one gets the reward.

    The observation of step ``h`` is the features, the one-hot of ``h``, and the choices so far: for each head the
    centre of the chosen bin of [-1, 1], 0 before it is chosen.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        heads = len(sizes.nvec)
        self.substeps = heads
        self.observation_space = _box(OBSERVATION_BOUND, len(sizes.features) + 2 * heads)

    @property
    def action_space(self) -> gym.Space:
        return gym.spaces.Discrete(max(self.sizes.nvec))

    def start(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """The observations of the first step, (N, F + 2H), from the decisions' observations (N, F)."""
        heads = len(self.sizes.nvec)
        sequence = np.zeros((len(observations), observations.shape[1] + 2 * heads), dtype=np.float32)
        sequence[:, : observations.shape[1]] = observations
        sequence[:, observations.shape[1]] = 1.0
        return sequence

    def advance(self, sequence: NDArray[np.float32], head: int, choices: NDArray[np.int64]) -> None:
        """Write the choices (N,) of ``head`` into ``sequence`` (N, F + 2H), in place, and go to the next head."""
        heads = len(self.sizes.nvec)
        features = sequence.shape[1] - 2 * heads
        sequence[:, features + heads + head] = 2 * (choices + 0.5) / self.sizes.nvec[head] - 1
        sequence[:, features + head] = 0.0
        if head + 1 < heads:
            sequence[:, features + head + 1] = 1.0

    def rows(self, transitions: Sequence[Transition]) -> Rows:
        heads, steps = len(self.sizes.nvec), len(transitions)
        plain = _observations(transitions)
        choices = np.asarray([t.decision.action for t in transitions], dtype=np.int64)
        sequence = self.start(plain)
        observations = np.empty((steps * heads + 1, sequence.shape[1]), dtype=np.float32)
        observations[-1] = sequence[-1]
        for head in range(heads):
            observations[head:-1:heads] = sequence[:-1]
            self.advance(sequence[:-1], head, choices[:, head])
        rewards = np.zeros(steps * heads, dtype=np.float32)
        rewards[heads - 1 :: heads] = _rewards(transitions)
        return Rows(observations=observations, actions=choices.reshape(-1), rewards=rewards, outputs={})


def _box(bound: float, size: int) -> gym.spaces.Box:
    return gym.spaces.Box(-bound, bound, (size,), np.float32)


def _observations(transitions: Sequence[Transition]) -> NDArray[np.float32]:
    rows = [t.decision.observation for t in transitions]
    rows.append(transitions[-1].next_observation)
    return clean(np.asarray(rows, dtype=np.float32), OBSERVATION_BOUND)


def _rewards(transitions: Sequence[Transition]) -> NDArray[np.float32]:
    return clean(np.asarray([t.reward for t in transitions], dtype=np.float32), REWARD_BOUND)


def clean(values: NDArray[np.float32], bound: float) -> NDArray[np.float32]:
    """NaN becomes 0, everything else is clipped to ``bound``."""
    clipped = np.clip(values, -bound, bound)
    clipped[np.isnan(clipped)] = 0.0
    return clipped
