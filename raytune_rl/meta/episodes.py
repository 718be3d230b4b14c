"""Many whole episodes at once: worlds that are played with the newest weights, as RLlib episodes.

What a learner connector needs for credit, besides observations and actions, is in ``episode.custom_data``.
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
"""Number of hyperparameters in the observations for learning; the network itself takes any number."""
LOWEST = -4.0
"""Lower bound of scores, at a loss of 55: what is below has failed, and differences between failures do not count."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """The populations of one task that were played together."""

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
    """Play one world with ``groups`` populations, which train as one program on ``device``.

    With ``alike``, for credit, populations share initial weights and batches and differ only in their sampled
    decisions. Without it, for evaluation, they share only the task, so that a single lucky draw of weights does not
    decide them all.
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
    """A maker of policies that act with these weights and record what a learner needs."""
    return lambda: TokenPolicy(weights, recording=True)


def episodes_of(group: Group) -> list[SingleAgentEpisode]:
    """One episode per member of each population.

    ``custom_data`` has the episode's task, population, member and segments and, for its whole population, validation
    and test scores and the parents of the weights, arrays of shape (segments, members). If the ensemble is the
    objective, it also has the members' contributions and, of shape (segments,), the ensemble's scores, both on the test
    split.
    """
    episodes = []
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
            episodes.append(_episode(played, member, {**shared, "member": member}))
    return episodes


def score(losses: np.ndarray) -> np.ndarray:
    """``mdp.score`` of losses, at least ``LOWEST``."""
    return np.maximum(np.vectorize(LOSS.of, otypes=[float])(losses), LOWEST)


def _episode(played: Played, member: int, custom: dict[str, object]) -> SingleAgentEpisode:
    decisions = [played.start[member]] + [step.decisions[member] for step in played.steps[:-1]]
    decided = [segment for segment, decision in enumerate(decisions) if decision.action]  # those that the policy opened
    chosen: list[Decision] = [decisions[segment] for segment in decided]
    return episode(
        observations=np.array([d.observation for d in chosen], dtype=np.float32),
        actions=np.array([_padded_action(d.action) for d in chosen]),
        rewards=[float(played.steps[segment].rewards[member]) for segment in decided],
        outputs={
            "action_logp": [np.float32(d.logp) for d in chosen],
            "action_dist_inputs": [np.asarray(d.extras["action_dist_inputs"], dtype=np.float32) for d in chosen],
        }
        if chosen[0].extras
        else {},
        custom={**custom, "segments": np.asarray(decided)},
    )


def episode(
    *,
    observations: np.ndarray,
    actions: np.ndarray,
    rewards: Sequence[float],
    custom: Mapping[str, object],
    outputs: Mapping[str, list[Any]] | None = None,
) -> SingleAgentEpisode:
    """An RLlib episode of T decisions, with observations (T, F) and actions (T, heads). The last observation is
    repeated as the final one, which RLlib expects; its value is not used here."""
    whole = SingleAgentEpisode(
        id_=f"{custom['task']}-{custom['population']}-{custom['member']}",
        observations=[*observations, observations[-1]],
        infos=[{} for _ in range(len(observations) + 1)],
        actions=list(actions),
        rewards=list(rewards),
        truncated=True,
        extra_model_outputs=dict(outputs or {}),
        len_lookback_buffer=0,
    )
    whole.custom_data.update(custom)
    return whole


def _padded_action(action: tuple[int, ...]) -> np.ndarray:
    """``action`` with a head for each of ``SLOTS`` hyperparameters, then the source; heads of empty slots stay."""
    heads, source = action[:-1], action[-1]
    return np.asarray([*heads, *[STAY] * (SLOTS - len(heads)), source], dtype=np.int64)
