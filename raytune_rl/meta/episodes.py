"""Whole episodes in bulk: worlds played with the newest weights, told in RLlib's own terms.

What a learner connector needs for credit beside observations and actions travels in ``episode.custom_data``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from raytune_rl.controller.policy import Policy
from raytune_rl.controller.tokens import TokenPolicy
from raytune_rl.hyperparameters import STAY
from raytune_rl.records import Decision
from raytune_rl.worlds.cohort import Cohort
from raytune_rl.worlds.generator import World
from raytune_rl.worlds.rollout import LOSS, Played, Rollout, make_controller

SLOTS = 5
"""Hyperparameters in the observations that are learned from; the network itself takes any number."""
LOWEST = -4.0
"""Scores below are accidents, all alike: a loss of 55."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Populations of one task under differently sampled decisions, everything else alike."""

    world: World
    played: list[Played]


def play(
    world: World,
    make_policy: Callable[[], Policy],
    *,
    groups: int,
    seed: int = 0,
    alike: bool = True,
    device: str = "cpu",
) -> Group:
    """Play one world ``groups`` times, as one program on ``device``.

    ``alike``: populations share initial weights and batches, for credit; without it they share the task only, for
    judging: a single lucky draw of weights would decide all of them.
    """
    streams = [m + (0 if alike else world.members * group) for group in range(groups) for m in range(world.members)]
    cohort = Cohort(world.task, streams, seed=world.number + seed, device=device)
    controllers = [
        make_controller(
            world.task,
            make_policy(),
            members=world.members,
            segments=world.segments,
            seed=seed * 1000 + group,
            copy_every=world.copy_every,
            slots=SLOTS,
            ensemble=world.ensemble,
        )
        for group in range(groups)
    ]
    return Group(world=world, played=Rollout(cohort, controllers, segments=world.segments, tested=True).play())


def recorder(weights: Mapping[str, np.ndarray]) -> Callable[[], Policy]:
    """Makes policies that act with these weights and keep what a learner needs."""
    return lambda: TokenPolicy(weights, recording=True)


def episodes_of(group: Group) -> list[SingleAgentEpisode]:
    """An episode per member; ``custom_data`` holds its place and, for all of its population, validation and test
    scores and the weights' parents, arrays of shape (segments, members); where the ensemble is the objective, also the
    members' contributions and, of shape (segments,), the ensemble's scores, both on the test split."""
    found = []
    for index, played in enumerate(group.played):
        shared = {
            "task": group.world.number,
            "population": index,
            "validation": score(played.validation),
            "test": score(played.test),
            "parent": played.parent,
            "parent_segment": played.parent_segment,
            **({"contribution": played.contribution, "ensemble": played.ensemble} if group.world.ensemble else {}),
        }
        for member in range(group.world.members):
            found.append(_episode(played, member, {**shared, "member": member}))
    return found


def score(losses: np.ndarray) -> np.ndarray:
    """``mdp.score`` of losses, at least ``LOWEST``."""
    return np.maximum(np.vectorize(LOSS.of, otypes=[float])(losses), LOWEST)


def _episode(played: Played, member: int, custom: dict[str, object]) -> SingleAgentEpisode:
    decisions = [played.start[member]] + [step.decisions[member] for step in played.steps[:-1]]
    asked = [segment for segment, decision in enumerate(decisions) if decision.action]
    chosen: list[Decision] = [decisions[segment] for segment in asked]
    return episode(
        observations=np.array([d.observation for d in chosen], dtype=np.float32),
        actions=np.array([_padded(d.action) for d in chosen]),
        rewards=[float(played.steps[segment].rewards[member]) for segment in asked],
        outputs={
            "action_logp": [np.float32(d.logp) for d in chosen],
            "action_dist_inputs": [np.asarray(d.extras["action_dist_inputs"], dtype=np.float32) for d in chosen],
        }
        if chosen[0].extras
        else {},
        custom={**custom, "segments": np.asarray(asked)},
    )


def episode(
    *,
    observations: np.ndarray,
    actions: np.ndarray,
    rewards: Sequence[float],
    custom: Mapping[str, object],
    outputs: Mapping[str, list[Any]] | None = None,
) -> SingleAgentEpisode:
    """A whole episode of T decisions, observations (T, F) and actions (T, heads), in RLlib's terms. The last
    observation is repeated as the final one; nothing here bootstraps from it."""
    found = SingleAgentEpisode(
        id_=f"{custom['task']}-{custom['population']}-{custom['member']}",
        observations=[*observations, observations[-1]],
        infos=[{} for _ in range(len(observations) + 1)],
        actions=list(actions),
        rewards=list(rewards),
        truncated=True,
        extra_model_outputs=dict(outputs or {}),
        len_lookback_buffer=0,
    )
    found.custom_data.update(custom)
    return found


def _padded(action: tuple[int, ...]) -> np.ndarray:
    """Empty slots stay; the source comes last."""
    heads, source = action[:-1], action[-1]
    return np.asarray([*heads, *[STAY] * (SLOTS - len(heads)), source], dtype=np.int64)
