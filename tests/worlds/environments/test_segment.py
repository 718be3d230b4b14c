"""One steered member: Gymnasium's own checks, repeatable, ended by its budget or its failure, and learned by others."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from raytune_rl import Fixed, rewards
from raytune_rl.controller.policies import Replay
from raytune_rl.hyperparameters import LEVELS
from raytune_rl.worlds.environments import SegmentEnv, VectorSegmentEnv
from raytune_rl.worlds.generator import make_world
from tests.devices import DEVICES

HIGHEST = LEVELS - 1


def reckless(env: SegmentEnv) -> np.ndarray:
    """The largest learning rate, and nothing else out of the ordinary."""
    action = [head.neutral for head in env.heads]
    for index, head in enumerate(env.heads):
        if head.name == "hp/learning_rate":
            action[index] = HIGHEST
    return np.array(action)


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("device", DEVICES)
def test_gymnasium_finds_nothing_wrong(members: int, device: str) -> None:
    env = gymnasium.make("raytune_rl/Segment-v0", world=3, members=members, segments=3, device=device).unwrapped
    check_env(env, skip_render_check=True)


def test_the_others_can_replay_while_the_steered_member_acts() -> None:
    space = make_world(3).task.space
    values = space.decode([0.25] * len(space))
    env = SegmentEnv(world=3, members=3, segments=3, others=lambda: Replay([values]))
    env.reset(seed=0)
    env.step(np.array([HIGHEST if head.name.startswith("hp/") else head.neutral for head in env.heads]))
    started = [decision.hyperparameters for decision in env._stage._controllers[0].begin_all(range(3))]
    assert started[1:] == [values] * 2 and started[0] != values


def test_an_episode_is_the_worlds_segments_and_its_rewards_add_up_to_the_gain() -> None:
    env = SegmentEnv(world=3, members=2, segments=5, others=Fixed)
    env.action_space.seed(0)
    env.reset(seed=0)
    told = [env.step(env.action_space.sample()) for _ in range(5)]
    assert [t[3] for t in told] == [False] * 4 + [True] and not any(t[2] for t in told)
    assert [t[4]["segment"] for t in told] == [1, 2, 3, 4, 5]
    assert told[-1][0][env.features.index("progress")] == 1.0
    gains = -np.diff(np.log([t[4]["validation_loss"] for t in told]))
    assert np.sign([t[1] for t in told[1:]]).tolist() == np.sign(gains).tolist()
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(env.action_space.sample())


def test_the_seed_is_the_trajectory() -> None:
    def play(seed: int) -> list[float]:
        env = SegmentEnv(world=3, members=2, segments=3)
        env.action_space.seed(1)
        env.reset(seed=seed)
        return [env.step(env.action_space.sample())[1] for _ in range(3)]

    assert play(4) == play(4) != play(5)


def test_the_first_action_is_the_starting_values_and_later_ones_move_them() -> None:
    env = SegmentEnv(world=3, members=1, segments=4)
    place = env.features.index("hp/learning_rate/position")
    env.reset(seed=0)
    action = np.array([head.neutral for head in env.heads])
    head = [h.name for h in env.heads].index("hp/learning_rate")
    action[head] = 0
    started = env.step(action)[0][place]
    action[head] = HIGHEST
    assert started < 0.2 < env.step(action)[0][place]


def test_a_member_that_diverges_is_terminated() -> None:
    env = SegmentEnv(diverging(), members=1, segments=4)
    env.reset(seed=0)
    _, reward, terminated, truncated, info = env.step(reckless(env))
    assert terminated and not truncated and np.isnan(info["validation_loss"]) and np.isfinite(reward)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(reckless(env))
    env.reset()
    assert not env.step(np.array([head.neutral for head in env.heads]))[2]


def test_a_reward_of_ones_own() -> None:
    env = SegmentEnv(world=3, members=1, segments=3, reward=rewards.final())
    env.reset(seed=0)
    assert [env.step(np.array([head.neutral for head in env.heads]))[1] == 0.0 for _ in range(3)] == [True, True, False]


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="steered=2 must be a member, from 0 to 1"):
        SegmentEnv(world=3, members=2, steered=2)
    with pytest.raises(ValueError, match="segments=0 must be at least 1"):
        SegmentEnv(world=3, segments=0)
    with pytest.raises(ValueError, match="schedule='bogus' must be one of constant, cosine, late_cosine"):
        SegmentEnv(world=3, schedule="bogus")
    with pytest.raises(ValueError, match=r"reward='x' must be one of raytune_rl\.rewards"):
        SegmentEnv(world=3, reward="x")
    with pytest.raises(ValueError, match="pays for the ensemble, which is not the objective"):
        SegmentEnv(world=3, reward=rewards.team(), ensemble=False)
    env = SegmentEnv(world=3, members=1)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(env.action_space.sample())
    env.reset()
    with pytest.raises(ValueError, match="must be between 0 and"):
        env.step(np.full(len(env.heads), 99))


# -- many populations --------------------------------------------------------------------------------------------------


def test_populations_step_together_and_begin_again_together() -> None:
    env = gymnasium.make_vec("raytune_rl/Segment-v0", num_envs=3, world=3, members=2, segments=2)
    assert isinstance(env.unwrapped, VectorSegmentEnv)
    env.action_space.seed(0)
    first, _ = env.reset(seed=0)
    assert first in env.observation_space
    _, rewards_, terminated, truncated, _ = env.step(env.action_space.sample())
    assert rewards_.shape == (3,) and len(set(rewards_)) == 3 and not truncated.any() and not terminated.any()
    assert env.step(env.action_space.sample())[3].all()
    again, rewards_, terminated, truncated, _ = env.step(env.action_space.sample())
    np.testing.assert_array_equal(again, first)  # nothing is known of a new population
    assert not rewards_.any() and not truncated.any() and not terminated.any()
    assert env.step(env.action_space.sample())[0][:, env.features.index("progress")].tolist() == [0.5] * 3


def test_a_diverged_member_of_one_population_begins_an_episode_while_the_others_go_on() -> None:
    env = VectorSegmentEnv(2, diverging(), members=1, segments=6, schedule="constant")
    env.reset(seed=0)
    calm = np.array([head.neutral for head in env.heads])
    up = reckless(SegmentEnv(diverging(), members=1))  # ten times the learning rate, each time
    told = [env.step(np.stack([action, calm])) for action in (calm, up, up, up, up, calm)]
    assert [t[2].tolist() for t in told] == [[index == 3, False] for index in range(6)]
    assert told[4][1][0] == 0.0 and told[4][1][1] != 0.0  # the restart is nobody's choice, and from the values before
    assert np.isfinite(told[4][4]["validation_loss"]).all() and told[5][3].all()


def test_stable_baselines_trains_on_it() -> None:
    sb3 = pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.env_checker import check_env as their_check

    env = SegmentEnv(world=3, members=2, segments=4)
    their_check(env)
    agent = sb3.PPO("MlpPolicy", env, n_steps=16, batch_size=8, n_epochs=2, seed=0, device="cpu")
    before = {name: value.clone() for name, value in agent.policy.state_dict().items()}
    agent.learn(32)
    assert agent.num_timesteps == 32 and len(agent.ep_info_buffer) == 8
    assert any((value != before[name]).any() for name, value in agent.policy.state_dict().items())
    assert agent.predict(env.reset(seed=0)[0])[0] in env.action_space


def diverging() -> object:
    """A world whose middle learning rate is 0.01 and whose largest is out of all bounds."""
    from dataclasses import replace

    from raytune_rl.hyperparameters import Float, SearchSpace

    made = make_world(2)  # regression by SGD
    space = SearchSpace((Float(name="learning_rate", role="learning_rate", lower=1e-22, upper=1e18, log=True),))
    return replace(made, task=replace(made.task, space=space))
