"""The acting copy's numpy network against RLlib's own modules."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.algorithms.dqn.default_dqn_rl_module import QF_PREDS
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns

from raytune_rl.rllib import Agent
from raytune_rl.rllib.algorithms import build_config
from raytune_rl.rllib.network import initial_weights, networks
from raytune_rl.rllib.settings import ALGORITHM_NAMES
from raytune_rl.rllib.spaces import Sequential, Sizes
from raytune_rl.rllib.traits import TRAITS, epsilon_at

SIZES = Sizes(features=("a", "b", "c"), heads=("x", "y"), nvec=(3, 5))
HIDDEN = ((16,), (24, 12), (8, 12, 16))


def _module(agent: Agent) -> Any:
    config = build_config(agent, SIZES)
    spaces = {DEFAULT_MODULE_ID: (config.observation_space, config.action_space)}
    module = config.get_rl_module_spec(spaces=spaces, inference_only=not TRAITS[agent.algorithm].critic).build()
    module.eval()
    return module


def _observations(agent: Agent) -> np.ndarray:
    observations = np.random.default_rng(0).normal(size=(7, len(SIZES.features))).astype(np.float32)
    encoding = TRAITS[agent.algorithm].encoding(SIZES)
    return encoding.start(observations) if isinstance(encoding, Sequential) else observations


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("name", ALGORITHM_NAMES)
class TestEveryNetwork:
    def test_it_computes_what_the_module_does(self, name: str, hidden: tuple[int, ...]) -> None:
        agent = Agent(algorithm=name, hidden=hidden)  # type: ignore[arg-type]
        module, weights, inputs = _module(agent), initial_weights(agent, SIZES, seed=3), _observations(agent)
        missing = module.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()}, strict=False)
        assert not missing.unexpected_keys
        assert all("log_std_clip" in key for key in missing.missing_keys)
        batch = {Columns.OBS: torch.from_numpy(inputs)}
        with torch.no_grad():
            if name == "DQN":
                theirs = {"q": module.compute_q_values(batch)[QF_PREDS]}
            else:
                theirs = {"policy": module.forward_exploration(batch)[Columns.ACTION_DIST_INPUTS]}
            if TRAITS[name].critic:
                theirs["value"] = module.compute_values(batch)[:, None]
        parts = networks(agent, SIZES)
        assert parts.keys() == theirs.keys()
        for part, mlp in parts.items():
            ours, expected = mlp.forward(weights, inputs), theirs[part].numpy()
            real = expected > -1e5  # the module masks Q-values of options that the first head lacks
            np.testing.assert_allclose(ours[real], expected[real], rtol=1e-5, atol=1e-5)

    def test_it_starts_like_the_module(self, name: str, hidden: tuple[int, ...]) -> None:
        """The same names, shapes and ranges as RLlib's own starting weights."""
        agent = Agent(algorithm=name, hidden=hidden)  # type: ignore[arg-type]
        ours, theirs = initial_weights(agent, SIZES, seed=0), _module(agent).get_state()
        for key, value in ours.items():
            assert value.shape == theirs[key].shape and value.dtype == theirs[key].dtype
            if value.size >= 100:
                assert np.std(value) == pytest.approx(np.std(theirs[key]), rel=0.25)


@pytest.mark.parametrize("name", ALGORITHM_NAMES)
def test_one_seed_gives_one_network(name: str) -> None:
    one, same, other = (initial_weights(Agent(algorithm=name), SIZES, seed=s) for s in (1, 1, 2))  # type: ignore[arg-type]
    assert all(np.array_equal(one[key], same[key]) for key in one)
    assert not any(np.array_equal(one[key], other[key]) for key in one)


def test_epsilon_follows_rllibs_notation() -> None:
    agent = Agent(algorithm="DQN")
    assert [epsilon_at(agent, n) for n in (0, 500, 1000, 9999)] == pytest.approx([0.8, 0.425, 0.05, 0.05])
    assert epsilon_at(Agent(algorithm="DQN", training={"epsilon": 0.3}), 77) == 0.3
    module = _module(agent)
    assert float(module.epsilon_schedule.update(500)) == pytest.approx(epsilon_at(agent, 500))


def test_acting_needs_neither_torch_nor_rllib() -> None:
    script = "import sys, raytune_rl.rllib.policy; sys.exit(bool({'torch', 'ray.rllib', 'ray'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
