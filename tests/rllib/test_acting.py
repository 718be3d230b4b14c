"""From observations to choices: shapes, seeds, and a network that is the same wherever it is built."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raytune_rl.controller.policy import Situation
from raytune_rl.rllib import Agent
from raytune_rl.rllib.acting import ActingCopy
from raytune_rl.rllib.algorithms import build_config
from raytune_rl.rllib.settings import ALGORITHM_NAMES
from raytune_rl.rllib.spaces import Sizes
from raytune_rl.rllib.traits import TRAITS
from tests import toy

ACTION = toy.toy_action()
SIZES = Sizes(features=toy.ToyObservation().features, heads=ACTION.names, nvec=ACTION.nvec)


def _situations(count: int) -> list[Situation]:
    rng = np.random.default_rng(0)
    size = len(SIZES.features)
    return [
        Situation(member=m, segment=1, first=False, observation=rng.normal(size=size).astype(np.float32), seed=m)
        for m in range(count)
    ]


@pytest.mark.parametrize("name", ALGORITHM_NAMES)
class TestEveryAlgorithm:
    def test_choices_fit_the_heads_and_carry_what_learning_needs(self, name: str) -> None:
        copy = ActingCopy(Agent(algorithm=name), SIZES, ACTION, seed=1)
        for choice in copy.act(_situations(8), version=3):
            assert all(0 <= index < size for index, size in zip(choice.action, ACTION.nvec, strict=True))
            assert set(TRAITS[name].encoding.needs) <= set(choice.extras)
            assert choice.version == 3
            assert all(isinstance(value, float) for values in choice.extras.values() for value in values)

    def test_a_choice_depends_on_its_own_seed_only(self, name: str) -> None:
        copy = ActingCopy(Agent(algorithm=name), SIZES, ACTION, seed=1)
        situations = _situations(6)
        together = [choice.action for choice in copy.act(situations)]
        backwards = [choice.action for choice in copy.act(situations[::-1])][::-1]
        alone = [copy.act([situation])[0].action for situation in situations]
        assert together == backwards == alone

    def test_the_global_streams_are_left_alone(self, name: str) -> None:
        before = torch.random.get_rng_state(), np.random.get_state()[1].tolist()
        ActingCopy(Agent(algorithm=name), SIZES, ACTION, seed=1).act(_situations(2))
        assert torch.equal(before[0], torch.random.get_rng_state())
        assert before[1] == np.random.get_state()[1].tolist()

    def test_unknown_training_arguments_are_refused(self, name: str) -> None:
        with pytest.raises(ValueError, match="nonsense"):
            build_config(Agent(algorithm=name, training={"nonsense": 1}), SIZES)


def test_the_probability_is_that_of_the_action() -> None:
    copy = ActingCopy(Agent(algorithm="PPO"), SIZES, ACTION, seed=1)
    (choice,) = copy.act(_situations(1))
    expected, start = 0.0, 0
    logits = np.array(choice.extras["action_dist_inputs"])
    for index, size in zip(choice.action, ACTION.nvec, strict=True):
        part = logits[start : start + size]
        expected += part[index] - np.log(np.exp(part).sum())
        start += size
    assert choice.logp == pytest.approx(expected, abs=1e-6)


def test_samples_follow_the_distribution() -> None:
    copy = ActingCopy(Agent(algorithm="PPO"), SIZES, ACTION, seed=1)
    observation = _situations(1)[0].observation
    many = [Situation(member=0, segment=1, first=False, observation=observation, seed=s) for s in range(4000)]
    choices = copy.act(many)
    logits = np.array(choices[0].extras["action_dist_inputs"][:7])
    frequencies = np.bincount([choice.action[0] for choice in choices], minlength=7) / 4000
    assert np.abs(frequencies - np.exp(logits) / np.exp(logits).sum()).max() < 0.03


def test_a_head_never_gets_an_option_that_it_lacks() -> None:
    """Greedy DQN with a head of five options beside heads of seven, whatever the network thinks of the other two."""
    copy = ActingCopy(Agent(algorithm="DQN", training={"epsilon": 0.0}), SIZES, ACTION, seed=1)
    weights = copy.weights()
    (bias,) = (value for name, value in weights.items() if value.shape == (max(ACTION.nvec),))
    bias[5:] = 100.0
    copy.set_weights(weights)
    choices = copy.act(_situations(16))
    assert {choice.action[0] for choice in choices} <= {5, 6}
    assert all(choice.action[2] < 5 for choice in choices)


def test_observations_that_are_no_numbers_are_survived() -> None:
    copy = ActingCopy(Agent(), SIZES, ACTION, seed=1)
    observation = np.full(len(SIZES.features), np.nan, dtype=np.float32)
    (choice,) = copy.act([Situation(member=0, segment=0, first=True, observation=observation, seed=0)])
    assert np.isfinite(choice.logp)


def test_too_little_training_per_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="training_intensity"):
        build_config(Agent(algorithm="SAC", training={"training_intensity": 0.5}), SIZES)
