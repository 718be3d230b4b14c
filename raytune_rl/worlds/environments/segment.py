"""One member of a population as a Gymnasium environment: a single one, or many populations as one batched program."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from raytune_rl.worlds.environments.stage import Stage
from raytune_rl.worlds.generator import World

SEEDS = 2**31
"""Upper bound of the seeds that the environment draws for its episodes."""

DEFAULT_WORLD = 3
"""Eight members, trained with Adam for 20 segments to tell three clusters apart."""


class SegmentEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """Steer one member of a population; the others follow a policy. A step is a segment of training.

    Observation: ``Box(-4, 4, (F,))``, the features that ``env.features`` names (``python -m raytune_rl.mdp``).
    Action: ``MultiDiscrete``, an index for each of ``env.heads``: a move for every hyperparameter and a source for the
    weights. The first action of an episode sets the starting values. Reward: how much the validation loss improved, in
    units that mean the same for every task (``raytune_rl.rewards``). An episode is truncated after ``segments`` steps,
    and terminated when the member's training diverges.

    Args:
        world: the task and its population, or the number of a generated one.
        steered: the member that the actions are for, from 0.
        settings: ``members``, ``segments``, ``others``, ``schedule``, ``reward``, ``ensemble`` and ``device``, as
            ``Stage`` takes them.

    Raises:
        ValueError: there is no such member.

    Example:
        >>> env = SegmentEnv(world=3, members=2, segments=4)
        >>> observation, info = env.reset(seed=0)
        >>> observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        >>> terminated, truncated, info["segment"]
        (False, False, 1)
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - Gymnasium declares it on the class

    def __init__(self, world: World | int = DEFAULT_WORLD, *, steered: int = 0, **settings: Any) -> None:
        self._stage = Stage(world, **settings)
        self._steered = _checked_member(steered, self._stage)
        self.features, self.heads = self._stage.features, self._stage.heads
        self.observation_space, self.action_space = self._stage.observation_space, self._stage.action_space
        self._ended = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """A new population: other weights, batches and neighbours. ``options`` are not used."""
        super().reset(seed=seed)
        self._ended = False
        return self._stage.begin(int(self.np_random.integers(SEEDS)))[0, self._steered], {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Train the population for one segment. ``info`` holds ``segment``, how many segments have been trained, and
        ``validation_loss``.

        Raises:
            ResetNeeded: the episode is over.
        """
        if self._ended:
            raise gymnasium.error.ResetNeeded("The member's episode is over: reset first.")
        trained = self._stage.step([{self._steered: action}])  # type: ignore[dict-item]
        steered = (0, self._steered)
        terminated, truncated = bool(trained.terminated[steered]), bool(trained.truncated[steered])
        self._ended = terminated or truncated
        info = {"segment": self._stage.segment, "validation_loss": float(trained.losses[steered])}
        return trained.observations[steered], float(trained.rewards[steered]), terminated, truncated, info


class VectorSegmentEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """``num_envs`` populations with one steered member each, as one batched program.

    Autoreset is ``NEXT_STEP``. All populations reach the end of their budget at the same time, and the next step begins
    new ones. When a member diverges its episode is terminated. In the next step, whatever its action is, the controller
    restarts the member from its own best weights, and the observation begins a new episode in the running population.

    Args:
        num_envs: how many populations.
        world, steered, settings: as ``SegmentEnv`` takes them.

    Raises:
        ValueError: there is no such member, or no population.
    """

    metadata: dict[str, Any] = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(
        self, num_envs: int = 1, world: World | int = DEFAULT_WORLD, *, steered: int = 0, **settings: Any
    ) -> None:
        self._stage = Stage(world, populations=num_envs, **settings)
        self._steered = _checked_member(steered, self._stage)
        self.num_envs = num_envs
        self.features, self.heads = self._stage.features, self._stage.heads
        self.single_observation_space = self._stage.observation_space
        self.single_action_space = self._stage.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """New populations, all from the one seed. Observations (num_envs, F)."""
        super().reset(seed=seed)
        return self._stage.begin(int(self.np_random.integers(SEEDS)))[:, self._steered], {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Train all populations for one segment, with ``actions`` of shape (num_envs, heads)."""
        if self._stage.over:
            not_ended = np.zeros(self.num_envs, dtype=np.bool_)
            observations, info = self.reset()
            return observations, np.zeros(self.num_envs), not_ended, not_ended.copy(), info
        trained = self._stage.step([{self._steered: action} for action in actions])
        steered = (slice(None), self._steered)
        info = {"segment": np.full(self.num_envs, self._stage.segment), "validation_loss": trained.losses[steered]}
        # Gymnasium's convention: a mask of the environments for which the entry is set.
        info |= {f"_{name}": np.ones(self.num_envs, dtype=np.bool_) for name in tuple(info)}
        return (
            trained.observations[steered],
            trained.rewards[steered],
            trained.terminated[steered],
            trained.truncated[steered],
            info,
        )


def _checked_member(steered: int, stage: Stage) -> int:
    if not 0 <= steered < stage.world.members:
        raise ValueError(f"steered={steered} must be a member, from 0 to {stage.world.members - 1}")
    return steered
