"""Advantages against the population's other members, worked out by hand."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.evaluation.postprocessing import Postprocessing

from raytune_rl.rllib.feed import SEGMENTS
from raytune_rl.rllib.peers import CLIP, PeerAdvantages, relative

SPACES = gym.spaces.Box(-4.0, 4.0, (1,), np.float32), gym.spaces.MultiDiscrete([2])


class Critic:
    """Expects what it sees."""

    def compute_values(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return batch[Columns.OBS][:, 0]


def piece(observations: list[float], rewards: list[float], segments: list[int], *, ended: bool) -> SingleAgentEpisode:
    episode = SingleAgentEpisode(
        observations=[np.array([value], dtype=np.float32) for value in observations],
        infos=[{} for _ in observations],
        actions=[np.array([0]) for _ in rewards],
        rewards=rewards,
        terminated=ended,
        truncated=not ended,
        len_lookback_buffer=0,
    )
    episode.custom_data[SEGMENTS] = segments
    return episode


def credited(episodes: list[SingleAgentEpisode], **settings: float) -> tuple[np.ndarray, np.ndarray]:
    """Value targets and advantages."""
    seen = np.concatenate([episode.get_observations()[:-1] for episode in episodes])
    batch = {DEFAULT_MODULE_ID: {Columns.OBS: torch.as_tensor(seen)}}
    PeerAdvantages(*SPACES, **settings)(rl_module={DEFAULT_MODULE_ID: Critic()}, batch=batch, episodes=episodes)
    columns = batch[DEFAULT_MODULE_ID]
    return columns[Postprocessing.VALUE_TARGETS].numpy(), columns[Postprocessing.ADVANTAGES].numpy()


def test_returns_go_on_with_the_critic_unless_the_episode_has_ended() -> None:
    open_end, ended = (piece([0.5, 1.0, 2.0], [1.0, 3.0], [1, 2], ended=ended) for ended in (False, True))
    targets, _ = credited([open_end, ended], gamma=0.5, gae_lambda=1.0)
    np.testing.assert_allclose(targets, [1 + 0.5 * 3 + 0.25 * 2.0, 3 + 0.5 * 2.0, 1 + 0.5 * 3, 3])
    targets, _ = credited([open_end], gamma=0.5, gae_lambda=0.0)
    np.testing.assert_allclose(targets, [1 + 0.5 * 1.0, 3 + 0.5 * 2.0])


def test_what_all_members_gain_at_a_segment_is_nobodys_merit() -> None:
    gains = {1: 5.0, 2: 0.1}
    pieces = [piece([0.0] * 3, [gains[1] + d, gains[2] - d], [1, 2], ended=True) for d in (0.0, 0.2)]
    _, advantages = credited(pieces, gamma=0.0)
    assert advantages == pytest.approx([-1, 1, 1, -1], rel=0.02)


def test_relative() -> None:
    rng = np.random.default_rng(0)
    segments = rng.integers(5, size=60)
    found = relative(rng.standard_normal(60) + 10.0 * segments, segments)
    assert np.abs([found[segments == segment].mean() for segment in range(5)]).max() < 1e-6
    assert found.std() == pytest.approx(1.0, abs=0.01)
    wrecked = np.zeros(60)
    wrecked[7] = -1e6
    assert np.abs(relative(wrecked, np.zeros(60, dtype=int))).max() == CLIP
    assert relative(np.array([3.0, 1.0]), np.array([1, 2])).tolist() == [0.0, 0.0]  # nobody to be held against
