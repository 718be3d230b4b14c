"""Populations of one world that are steered from outside, step by step: the basis of all environments.

Controller, decision process and cohort are the same as everywhere else. A step is one segment of every member: the
given actions become decisions, the cohort trains, and its reports become observations and rewards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded

from raytune_rl.controller.controller import Controller
from raytune_rl.controller.guided import Guided
from raytune_rl.controller.policies import PBT
from raytune_rl.controller.policy import Policy
from raytune_rl.controller.schedule import LearningRateSchedule
from raytune_rl.controller.step_inputs import StepInputs
from raytune_rl.mdp.features import LIMIT
from raytune_rl.mdp.reward import Reward
from raytune_rl.worlds.cohort import Cohort
from raytune_rl.worlds.generator import World, make_world
from raytune_rl.worlds.rollout import METRIC, Rollout, make_controller


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """The result of one segment, as arrays of shape (populations, members).

    Attributes:
        observations: float32 of shape (populations, members, F), each value in [-4, 4].
        rewards: for the segment; 0 if no policy decided how the segment began, as after a failure.
        terminated: whether the member's training failed. The controller restarts such a member from its own best
            weights, without asking a policy, and the segment after that begins a new episode.
        truncated: whether the member is at the end of its budget; this happens to all members at the same time.
        losses: on the validation split.
    """

    observations: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    losses: np.ndarray


class Stage:
    """G populations of M members each, which train as one cohort.

    Args:
        world: the task and its population, or the number of a generated one (``generator.make_world``).
        members: number of members per population, instead of the world's.
        segments: length of an episode, instead of the world's.
        populations: how many train together.
        others: makes the policy of the members that are given no action.
        schedule: multiplied with the learning rates, unless ``others`` requires one. Under the cosine, actions that
            change nothing already give a good schedule.
        reward: the reward for a segment (``raytune_rl.rewards``); by default that of the objective: improvement of the
            validation loss, or ``mixed`` for an ensemble.
        ensemble: whether the objective is the ensemble. Then members also predict, and observe what they contribute to
            the ensemble. By default whether the reward is for an ensemble.
        device: where the cohort trains.

    Raises:
        ValueError: members, segments or populations are below 1; the schedule is unknown or the reward not callable; or
            the reward is for an ensemble, which is not the objective.
    """

    def __init__(
        self,
        world: World | int,
        *,
        members: int | None = None,
        segments: int | None = None,
        populations: int = 1,
        others: Callable[[], Policy] = PBT,
        schedule: LearningRateSchedule = "cosine",
        reward: Reward | None = None,
        ensemble: bool | None = None,
        device: str = "cpu",
    ) -> None:
        whole = world if isinstance(world, World) else make_world(world)
        self.world = replace(
            whole,
            members=whole.members if members is None else members,
            segments=whole.segments if segments is None else segments,
        )
        for name, count in (
            ("members", self.world.members),
            ("segments", self.world.segments),
            ("populations", populations),
        ):
            if count < 1:
                raise ValueError(f"{name}={count} must be at least 1")
        if schedule not in get_args(LearningRateSchedule):
            raise ValueError(f"schedule={schedule!r} must be one of {', '.join(get_args(LearningRateSchedule))}")
        if reward is not None and not callable(reward):
            raise ValueError(f"reward={reward!r} must be one of raytune_rl.rewards, such as team(), or a function")
        for_team = bool(getattr(reward, "ensemble", False))
        if for_team and ensemble is False:
            raise ValueError(f"reward={reward!r} pays for the ensemble, which is not the objective (ensemble=False)")
        self.ensemble = for_team if ensemble is None else ensemble
        self.populations = populations
        self._others, self._schedule, self._reward, self._device = others, schedule, reward, device
        controller = self._controller(Guided(others(), schedule=schedule), seed=0)
        self.features, self.heads = controller.observation.features, controller.actions.heads
        self.observation_space = spaces.Box(-LIMIT, LIMIT, (len(self.features),), np.float32)
        self.action_space = spaces.MultiDiscrete([head.size for head in self.heads])
        self._policies: list[Guided] = []
        self._controllers: list[Controller] = []
        self._cohort: Cohort | None = None
        self._rollout: Rollout | None = None
        self._inputs: list[StepInputs] = []
        self.segment = 0
        """How many segments have been trained."""

    def begin(self, seed: int) -> np.ndarray:
        """Begin new populations, whose weights, batches and other members' choices derive from ``seed``.

        Returns:
            The observations before the first actions, which choose the starting values: shape (populations, members,
            F).
        """
        count, members = self.populations, self.world.members
        self._policies = [Guided(self._others(), schedule=self._schedule) for _ in range(count)]
        self._controllers = [self._controller(policy, seed + index) for index, policy in enumerate(self._policies)]
        self._cohort = Cohort(self.world.task, range(count * members), seed=seed, device=self._device)
        self._rollout, self._inputs, self.segment = None, [], 0
        return np.stack(
            [[controller.opening(member).observation for member in range(members)] for controller in self._controllers]
        )

    def step(self, actions: Sequence[Mapping[int, Sequence[int]]]) -> Trained:
        """Train all members for one segment.

        Args:
            actions: for each population a mapping from members to actions, an index per head. Members that are not in
                it follow ``others``.

        Raises:
            ResetNeeded: before ``begin``, or after the last segment.
            ValueError: an index is missing or outside its head.
        """
        if self._cohort is None or self.over:
            raise ResetNeeded("The populations have not begun, or have trained to the end: reset first.")
        for policy, by_member in zip(self._policies, actions, strict=True):
            policy.tell(by_member)
        if self._rollout is None:
            self._rollout = Rollout(self._cohort, self._controllers, segments=self.world.segments)
        for group, (controller, inputs) in enumerate(zip(self._controllers, self._inputs, strict=False)):
            self._rollout.follow(group, controller.decide(inputs))
        reports = self._rollout.train(self.segment)
        self._inputs = [controller.take(group) for controller, group in zip(self._controllers, reports, strict=True)]
        self.segment += 1
        return _trained(self._inputs)

    @property
    def over(self) -> bool:
        """Whether the last segment has been trained."""
        return self.segment >= self.world.segments

    def _controller(self, policy: Policy, seed: int) -> Controller:
        return make_controller(
            self.world.task,
            policy,
            members=self.world.members,
            segments=self.world.segments,
            seed=seed,
            copy_every=self.world.copy_every,
            ensemble=self.ensemble,
            reward=self._reward,
            floor=None,  # no roll-backs: an environment does what the actions say, and the agent sees the consequences
        )


def _trained(inputs: Sequence[StepInputs]) -> Trained:
    decided = np.array([[bool(decision.action) for decision in population.opened] for population in inputs])
    return Trained(
        observations=np.stack([np.stack(population.observations) for population in inputs]),
        rewards=np.where(decided, np.array([population.rewards for population in inputs], dtype=np.float64), 0.0),
        terminated=np.array([population.terminated for population in inputs]),
        truncated=np.array([population.truncated for population in inputs]),
        losses=np.array([[report.metrics[METRIC] for report in population.reports] for population in inputs]),
    )
