"""Assembles a controller from a search space, a policy and a reward: the one place where its parts are put together.

Runs, ``MetaAgentScheduler`` and packed worlds all build theirs here, so that they have the same decision process.
"""

from __future__ import annotations

from raytune_rl.combining.contribution import EvaluationTargets
from raytune_rl.controller.controller import Controller
from raytune_rl.controller.failures import FailurePolicy
from raytune_rl.controller.policy import Policy
from raytune_rl.controller.rollback import DEFAULT_FLOOR, Floor
from raytune_rl.controller.schedule import LearningRateSchedule
from raytune_rl.hyperparameters import SearchSpace
from raytune_rl.mdp.action import ActionSpec
from raytune_rl.mdp.observation import ObservationSpec
from raytune_rl.mdp.reward import Reward
from raytune_rl.records import Mode


def assemble(
    *,
    space: SearchSpace,
    policy: Policy,
    reward: Reward,
    metric: str,
    mode: Mode,
    population: int,
    segments: int | None,
    synchronous: bool,
    seed: int,
    copy_every: int | tuple[int, ...],
    copy_every_is_fixed: bool = False,
    optimiser: float = 0.0,
    slots: int | None = None,
    stopping: bool = False,
    end: int | None = None,
    schedule: LearningRateSchedule = "constant",
    target: float | None = None,
    agent_starts: bool = False,
    failures: FailurePolicy | None = None,
    floor: Floor | None = DEFAULT_FLOOR,
    evaluation_targets: EvaluationTargets | None = None,
) -> Controller:
    """A controller; binds the policy.

    Args:
        space, policy, reward, metric, mode, population, segments, seed: see ``Controller``.
        synchronous: whether all members wait for each other after every segment. Such a run is reproducible, so
            measured times enter neither observations nor rewards.
        copy_every: see ``ActionSpec``; used where the policy requires no interval.
        copy_every_is_fixed: whether it is used even where the policy requires one.
        optimiser, slots: see ``ObservationSpec``.
        stopping: see ``ActionSpec``.
        end, schedule, target, agent_starts, failures, floor, evaluation_targets: see ``Controller``.

    Raises:
        ValueError: a part does not fit the others, see ``ObservationSpec``, ``ActionSpec`` and ``Policy.bind``.
    """
    interval = copy_every if copy_every_is_fixed else policy.requirements.copy_every or copy_every
    return Controller(
        space=space,
        observation=ObservationSpec(space, slots=slots, optimiser=optimiser),
        actions=ActionSpec(space, stopping=stopping, copy_every=interval),
        reward=reward,
        policy=policy,
        metric=metric,
        mode=mode,
        population=population,
        segments=segments,
        seed=seed,
        end=end,
        schedule=schedule,
        target=target,
        agent_starts=agent_starts,
        failures=failures,
        floor=floor,
        timed=not synchronous,
        evaluation_targets=evaluation_targets,
    )
