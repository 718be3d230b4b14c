"""Every member an agent: PettingZoo's own tests, and agents that leave."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

pytest.importorskip("pettingzoo")
from pettingzoo.test import parallel_api_test, parallel_seed_test

from raytune_rl import rewards
from raytune_rl.worlds.environments import ParallelPopulationEnv
from tests.worlds.environments.test_segment import HIGHEST, diverging

TEAM = ("ensemble", "contribution", "greedy_weight", "distance")


def test_pettingzoo_finds_nothing_wrong() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        parallel_api_test(ParallelPopulationEnv(world=3, members=3, segments=4), num_cycles=10)


def test_the_seed_is_the_trajectory() -> None:
    parallel_seed_test(lambda: ParallelPopulationEnv(world=3, members=2, segments=3), num_cycles=3)


@pytest.mark.parametrize("reward", [rewards.team(), rewards.difference(), rewards.mixed()])
def test_a_reward_for_the_ensemble_makes_it_the_objective(reward: rewards.NamedReward) -> None:
    env = ParallelPopulationEnv(world=1, members=3, segments=4, reward=reward)
    env.reset(seed=0)
    neutral = np.array([head.neutral for head in env.heads])
    paid, told = [], {}
    while env.agents:
        told, found, *_ = env.step(dict.fromkeys(env.agents, neutral))
        paid += [*found.values()]
    assert np.abs(paid).sum() > 0.0
    shown = {name: max(abs(seen[env.features.index(name)]) for seen in told.values()) for name in TEAM}
    assert shown["ensemble"] == 1.0 and min(shown.values()) > 0.0, shown


def test_the_ensemble_may_be_the_objective_whatever_is_paid() -> None:
    env = ParallelPopulationEnv(world=1, members=2, segments=2, ensemble=True, reward=rewards.improvement())
    seen, _ = env.reset(seed=0)
    assert seen["member_0"][env.features.index("ensemble")] == 1.0


def test_agents_leave_when_their_member_diverges_and_the_others_train_to_the_end() -> None:
    env = ParallelPopulationEnv(diverging(), members=3, segments=3)
    env.reset(seed=0)
    neutral = np.array([head.neutral for head in env.heads])
    reckless = neutral.copy()
    reckless[0] = HIGHEST
    _, _, terminated, _, _ = env.step({"member_0": neutral, "member_1": reckless, "member_2": neutral})
    assert terminated == {"member_0": False, "member_1": True, "member_2": False}
    assert env.agents == ["member_0", "member_2"]
    with pytest.raises(ValueError, match="no agent 'member_1' now; here are member_0, member_2"):
        env.step(dict.fromkeys(env.possible_agents, neutral))
    seen, *_ = env.step(dict.fromkeys(env.agents, neutral))
    assert list(seen) == env.agents
    _, _, _, truncated, infos = env.step(dict.fromkeys(env.agents, neutral))
    assert truncated == {"member_0": True, "member_2": True} and not env.agents
    assert infos["member_0"]["segment"] == 3
    assert list(env.reset()[0]) == env.agents == env.possible_agents
