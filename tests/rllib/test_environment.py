"""A packed population under RLlib's own multi-agent training loop: its checks, its env runner, its algorithm."""

from __future__ import annotations

import numpy as np
import pytest
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from ray.rllib.utils.pre_checks.env import check_multiagent_environments

from raytune_rl.rllib.environment import PopulationMultiAgentEnv
from tests.worlds.environments.test_segment import HIGHEST, diverging

CONFIG = {"world": 3, "members": 3, "segments": 4}


def config() -> PPOConfig:
    return (
        PPOConfig()
        .environment(PopulationMultiAgentEnv, env_config=CONFIG)
        .multi_agent(policies={"shared"}, policy_mapping_fn=lambda agent, *_, **__: "shared")
        .env_runners(num_env_runners=0, num_envs_per_env_runner=1)
        .training(train_batch_size_per_learner=24, minibatch_size=12, num_epochs=2)
        .debugging(seed=0)
    )


def test_rllib_finds_nothing_wrong() -> None:
    check_multiagent_environments(PopulationMultiAgentEnv(CONFIG))


def test_its_env_runner_plays_whole_episodes() -> None:
    runner = MultiAgentEnvRunner(config=config())
    (episode,) = runner.sample(num_episodes=1, random_actions=True)
    assert episode.is_truncated and episode.env_steps() == 4 and episode.agent_steps() == 12
    assert all(np.isfinite(agent.get_return()) for agent in episode.agent_episodes.values())


def test_agents_leave_one_by_one() -> None:
    env = PopulationMultiAgentEnv({"world": diverging(), "members": 2, "segments": 2})
    env.reset(seed=0)
    neutral = env.action_spaces["member_0"].nvec // 2
    reckless = np.array([HIGHEST, *neutral[1:]])
    _, _, terminated, _, _ = env.step({"member_0": neutral, "member_1": reckless})
    assert terminated == {"member_0": False, "member_1": True, "__all__": False} and env.agents == ["member_0"]
    _, _, terminated, truncated, _ = env.step({"member_0": neutral})
    assert (terminated["__all__"], truncated["__all__"], env.agents) == (False, True, [])


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_cluster")
def test_its_ppo_trains_on_it() -> None:
    algorithm = config().build_algo()
    try:
        result = algorithm.train()
        assert result["env_runners"]["num_env_steps_sampled"] >= 8
        assert np.isfinite(result["learners"]["shared"]["policy_loss"])
    finally:
        algorithm.stop()
