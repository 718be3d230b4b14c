"""Several agents learn through RLlib: on the toy world, the same way twice, from a checkpoint, and in packed worlds."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raytune_rl.controller.policies import Random
from raytune_rl.rllib import Agent, LearningPolicy
from raytune_rl.worlds.cohort import Cohort
from raytune_rl.worlds.generator import make_world
from raytune_rl.worlds.rollout import Rollout, make_controller
from tests import toy

pytestmark = pytest.mark.usefixtures("ray_cluster")


def bound(seed: int = 5, **settings: Any) -> LearningPolicy:
    policy = LearningPolicy(Agent(batch=80, **settings), remote=False)
    policy.bind(toy.ToyObservation(), toy.toy_action(), seed=seed)  # type: ignore[arg-type]
    return policy


def weights(policy: LearningPolicy) -> dict[str, list[float]]:
    return {name: value.tolist() for name, value in policy._local().weights().items()}


@pytest.mark.parametrize(
    "settings",
    [
        {"agents": "members"},
        {"agents": "members", "modules": "own", "population": 3},
        {"agents": "hyperparameters", "modules": "role"},
        {"algorithm": "APPO", "agents": "members", "modules": "role"},
    ],
    ids=repr,
)
def test_all_networks_learn_the_same_twice_and_after_a_restore(settings: dict[str, Any], tmp_path: Path) -> None:
    one, same = bound(**settings), bound(**settings)
    start = weights(one)
    for policy in (one, same):
        toy.ToyWorld(1).play(policy, learn=True)
    assert (one.transitions, one.version, one.restarts) == (160, 2, 0)
    assert weights(one) == weights(same)
    assert all(value != start[name] for name, value in weights(one).items())

    assert one.save(str(tmp_path))
    state = pickle.loads(pickle.dumps(one.get_state()))
    restored = bound(seed=77, **settings)
    restored.restore(str(tmp_path))
    restored.set_state(state)
    assert weights(restored) == weights(one)
    returns = [toy.ToyWorld(2).play(policy, learn=True) for policy in (one, restored)]
    assert returns[0] == returns[1] and weights(restored) == weights(one)
    for policy in (one, same, restored):
        policy.close()


def test_a_checkpoint_of_another_team_is_refused(tmp_path: Path) -> None:
    policy = bound(agents="members", modules="own", population=4)
    assert policy.save(str(tmp_path))
    policy.close()
    for settings in ({}, {"agents": "members"}, {"agents": "members", "modules": "own", "population": 8}):
        with pytest.raises(ValueError, match=r"agents|modules|population"):
            bound(checkpoint=str(tmp_path), **settings)


@pytest.mark.slow
def test_members_with_a_shared_network_beat_the_random_policy() -> None:
    random = Random()
    random.bind(toy.ToyObservation(), toy.toy_action(), seed=0)  # type: ignore[arg-type]
    differences = []
    for seed in range(3):
        trained, _ = toy.train(lambda: LearningPolicy(Agent(agents="members"), remote=False), seed, 5)
        differences.append(toy.score(trained, 100 + seed) - toy.score(random, 100 + seed))
        trained.close()
    _, low, _ = toy.interval(np.array(differences))
    assert low > 0, f"return minus random's {np.round(differences, 1)}"


def test_a_team_learns_in_packed_worlds_for_the_ensemble() -> None:
    world = make_world(3)
    policy = Agent(agents="members", modules="role", batch=8).build(population=4)
    controller = make_controller(world.task, policy, members=4, segments=5, seed=0, ensemble=True)
    start = policy._local().weights()
    (played,) = Rollout(Cohort(world.task, range(4), seed=0), [controller], segments=5).play()
    assert policy.transitions == 20 and policy.version >= 1 and policy.restarts == 0
    assert any(not np.array_equal(value, start[name]) for name, value in policy._local().weights().items())
    assert np.isfinite([step.rewards for step in played.steps]).all()
    policy.close()
