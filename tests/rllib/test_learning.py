"""RLlib itself: each algorithm learns the toy world, the same way twice, and goes on from its checkpoint."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from raytune_rl.controller.policies import Random
from raytune_rl.rllib import Agent, LearningPolicy, checkpoints
from raytune_rl.rllib.settings import ALGORITHM_NAMES
from tests import toy

pytestmark = pytest.mark.usefixtures("ray_cluster")

GENERATIONS = {"PPO": 5, "APPO": 7, "DQN": 5, "SAC": 2}
"""As many as it takes; a generation is 160 decisions. ``scripts/bench_learning`` trains longer."""


def _policy(seed: int = 5, *, remote: bool = False, **settings: Any) -> LearningPolicy:
    bound = LearningPolicy(Agent(**settings), remote=remote)
    bound.bind(toy.ToyObservation(), toy.toy_action(), seed=seed)  # type: ignore[arg-type]
    return bound


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ALGORITHM_NAMES)
def test_the_return_beats_the_random_policy_over_five_seeds(name: str) -> None:
    beside = ray.remote(num_cpus=1)(_more_than_random)  # two seeds at a time
    differences = ray.get([beside.remote(name, seed) for seed in range(5)])
    _, low, _ = toy.interval(np.array(differences))
    assert low > 0, f"{name}: return minus random's {np.round(differences, 1)}"


def _more_than_random(name: str, seed: int) -> float:
    random = Random()
    random.bind(toy.ToyObservation(), toy.toy_action(), seed=0)  # type: ignore[arg-type]
    trained, _ = toy.train(lambda: LearningPolicy(Agent(algorithm=name), remote=False), seed, GENERATIONS[name])
    difference = toy.score(trained, 100 + seed) - toy.score(random, 100 + seed)
    assert isinstance(trained, LearningPolicy) and trained.restarts == 0
    trained.close()
    return difference


@pytest.mark.parametrize("name", ALGORITHM_NAMES)
def test_one_seed_learns_the_same_twice_and_after_a_restore(name: str, tmp_path: Path) -> None:
    """Bit for bit, through buffer, optimiser, temperature and random streams."""
    settings: dict[str, Any] = {"algorithm": name, "batch": 32}
    one, same = _policy(**settings), _policy(**settings)
    for policy in (one, same):
        toy.ToyWorld(1).play(policy, learn=True)
    assert _weights(one) == _weights(same) and one.version == 5

    assert one.save(str(tmp_path))
    state = pickle.loads(pickle.dumps(one.get_state()))
    restored = _policy(seed=77, **settings)
    restored.restore(str(tmp_path))
    restored.set_state(state)
    assert (restored.version, restored.transitions) == (one.version, one.transitions)
    assert _weights(restored) == _weights(one)
    returns = [toy.ToyWorld(2).play(policy, learn=True) for policy in (one, restored)]
    assert returns[0] == returns[1]
    assert _weights(restored) == _weights(one) != _weights(same)
    for policy in (one, same, restored):
        policy.close()


def test_a_truncated_checkpoint_gives_way_to_the_one_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    policy = _policy(batch=32)
    toy.ToyWorld(1).play(policy, learn=True)
    assert policy.save(str(tmp_path))
    good = policy.version
    toy.ToyWorld(2).play(policy, learn=True)
    assert policy.save(str(tmp_path))
    newest = checkpoints.newest(tmp_path)
    assert newest is not None
    state = newest.path / "state.pkl"
    state.write_bytes(state.read_bytes()[:100])
    other = _policy(batch=32)
    other.restore(str(tmp_path))
    assert other.version == good < policy.version
    assert "damaged or incomplete" in caplog.text
    policy.close()
    other.close()


def test_a_checkpoint_for_other_spaces_is_refused(tmp_path: Path) -> None:
    policy = _policy(batch=32)
    assert policy.save(str(tmp_path / checkpoints.NAME))
    policy.close()
    agent = Agent.from_run(tmp_path)

    class Other(toy.ToyObservation):
        pass

    stranger = Other(features=("progress", "first", "momentum/position", "lr/slope", "noise/0", "noise/1"))
    with pytest.raises(ValueError, match="momentum/position"):
        LearningPolicy(agent, remote=False).bind(stranger, toy.toy_action(), seed=0)  # type: ignore[arg-type]
    wider = Agent(hidden=(32,), checkpoint=agent.checkpoint)
    with pytest.raises(ValueError, match="hidden"):
        LearningPolicy(wider, remote=False).bind(toy.ToyObservation(), toy.toy_action(), seed=0)  # type: ignore[arg-type]


def test_an_agent_is_carried_from_run_to_run(tmp_path: Path) -> None:
    policy = _policy(batch=32)
    toy.ToyWorld(1).play(policy, learn=True)
    assert policy.save(str(tmp_path / checkpoints.NAME))
    heir = LearningPolicy(Agent.from_run(tmp_path, learn=False), remote=False)
    heir.bind(toy.ToyObservation(), toy.toy_action(), seed=99)  # type: ignore[arg-type]
    assert toy.score(heir, 3, 1) == toy.score(policy, 3, 1)
    policy.close()


def test_weights_that_turn_nan_are_not_adopted(caplog: pytest.LogCaptureFixture) -> None:
    policy = _policy(batch=32)
    toy.ToyWorld(1).play(policy, learn=True)
    before, version = _weights(policy), policy.version
    core = policy._link._core  # type: ignore[union-attr]
    update = core._engine.train

    def poisoned(episodes: Any) -> Any:
        result = update(episodes)
        core._set_weights({name: value * np.nan for name, value in core.weights().items()})
        return result

    core._engine.train = poisoned
    toy.ToyWorld(2).play(policy, learn=True)
    assert (_weights(policy), policy.version, policy.restarts) == (before, version, 0)
    assert "NaN or infinite" in caplog.text
    core._engine.train = update
    toy.ToyWorld(2).play(policy, learn=True)
    assert policy.version == version + 5 and _weights(policy) != before
    policy.close()


def test_a_full_disk_is_reported_not_raised(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    policy = _policy()
    (tmp_path / "file").write_text("in the way")
    assert not policy.save(str(tmp_path / "file"))
    assert "could not be saved" in caplog.text and policy.restarts == 0
    policy.close()


def test_a_killed_learner_is_replaced_and_learning_goes_on(tmp_path: Path) -> None:
    """kill -9 of the actor's process, after a checkpoint; decisions never fail meanwhile."""
    policy = _policy(remote=True, batch=32)
    toy.ToyWorld(1).play(policy, learn=True)
    assert policy.version == 5 and policy.save(str(tmp_path))
    toy.ToyWorld(2).play(policy, learn=True)
    version = policy.version
    pid = policy._link.start("pid").result()  # type: ignore[union-attr]
    os.kill(pid, signal.SIGKILL)
    toy.ToyWorld(3).play(policy, learn=True)
    assert policy.restarts == 1 and policy.dropped == 0
    assert policy.version == version + 5
    assert policy.save(str(tmp_path)), "the new learner does not save"
    policy.close()


def test_learning_in_an_actor_is_the_same_learning() -> None:
    here, there = _policy(batch=32), _policy(batch=32, remote=True)
    for policy in (here, there):
        toy.ToyWorld(1).play(policy, learn=True)
    assert there.version == 5
    assert _weights(here) == _weights(there)
    here.close()
    there.close()


def test_without_waiting_decisions_are_never_held_up(tmp_path: Path) -> None:
    policy = _policy(batch=8, remote=True)
    world, longest = toy.ToyWorld(1), 0.0
    learn = policy.learn

    def timed(chunks: Any, *, wait: bool = False) -> None:
        nonlocal longest
        start = time.perf_counter()
        learn(chunks, wait=False)
        longest = max(longest, time.perf_counter() - start)

    policy.act([])
    policy._local()
    policy.learn = timed  # type: ignore[method-assign]
    world.play(policy, learn=True)
    learn([], wait=True)
    assert policy.version >= 1
    assert longest < 2.0, "starting the actor takes seconds; nobody may have waited for it"
    assert policy.save(str(tmp_path), wait=False)
    learn([], wait=False)
    policy.close()
    shutil.rmtree(tmp_path, ignore_errors=True)


def _weights(policy: LearningPolicy) -> dict[str, list[float]]:
    return {name: value.tolist() for name, value in policy._local().weights().items()}
