"""A controller as a learning agent: both halves say the same, for any space, and it is kept as any other agent."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray import tune
from ray.rllib.core.columns import Columns

from raytune_rl import roles
from raytune_rl.controller import Situation
from raytune_rl.controller.prior import STAY_PRIOR
from raytune_rl.controller.tokens import IMPOSSIBLE, initial_weights, shapes
from raytune_rl.hyperparameters import LEVELS, STAY, SearchSpace
from raytune_rl.mdp import ActionSpec, ObservationSpec
from raytune_rl.records import Chunk, Decision, Transition
from raytune_rl.rllib import Agent, LearningPolicy
from raytune_rl.rllib.acting import acting_copy
from raytune_rl.rllib.algorithms import build_config
from raytune_rl.rllib.spaces import ACTION_DIST_INPUTS, ACTION_LOGP, Sizes
from raytune_rl.rllib.tokens import TokenAgent, fitted, from_module, to_module


def space_of(size: int) -> SearchSpace:
    plain = {f"x{index}": tune.uniform(0.0, 1.0) for index in range(size - 1)}
    return SearchSpace.from_specs({"lr": roles.learning_rate(tune.loguniform(1e-5, 1.0)), **plain})


def situations(spec: ObservationSpec, rows: int, seed: int = 0) -> list[Situation]:
    rng = np.random.default_rng(seed)
    seen = rng.uniform(-1, 1, (rows, spec.size)).astype(np.float32)
    for name in spec.features:
        if name.endswith(("/present", "/live", "/ordered", "copy_allowed")):
            seen[:, spec.index(name)] = 1.0
    seen[:, spec.index("first")] = 0.0
    return [Situation(member=m, segment=1, first=False, observation=row, seed=m) for m, row in enumerate(seen)]


@pytest.mark.parametrize(
    ("size", "slots", "stopping"), [(1, None, False), (3, 5, False), (3, 5, True), (20, None, True)]
)
def test_the_learner_sees_what_was_played(size: int, slots: int | None, stopping: bool) -> None:
    space = space_of(size)
    spec, action = ObservationSpec(space, slots=slots), ActionSpec(space, stopping=stopping)
    agent = TokenAgent(start=initial_weights(3))
    asked = situations(spec, 16)
    choices = acting_copy(agent, spec, action, seed=0).act(asked, version=7)
    module: Any = build_config(agent, Sizes.of(spec, action)).get_rl_module_spec().build()
    seen = torch.as_tensor(np.stack([situation.observation for situation in asked]))
    with torch.no_grad():
        output = module.forward_train({Columns.OBS: seen})
        values = module.compute_values({Columns.OBS: seen})
    logits = output[Columns.ACTION_DIST_INPUTS]
    played = np.array([choice.extras[ACTION_DIST_INPUTS] for choice in choices])
    np.testing.assert_allclose(logits.numpy(), played, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(values.numpy(), [choice.value for choice in choices], atol=1e-4)
    distribution = module.get_train_action_dist_cls().from_logits(logits)
    logp = distribution.logp(torch.as_tensor(np.array([choice.action for choice in choices])))
    np.testing.assert_allclose(logp.numpy(), [choice.extras[ACTION_LOGP][0] for choice in choices], atol=1e-3)
    assert {choice.version for choice in choices} == {7}


def test_heads_that_the_network_does_not_know_take_their_first_option() -> None:
    logits = np.arange(2 * LEVELS + 5, dtype=np.float32)[None]
    found = fitted(logits, 1, [LEVELS, 5, 2, 3], np)[0]
    assert found.tolist() == [*range(LEVELS), *range(14, 19), 0.0, IMPOSSIBLE, 0.0, IMPOSSIBLE, IMPOSSIBLE]


def test_names_of_weights_go_there_and_back() -> None:
    weights = initial_weights(1)
    back = from_module(to_module(weights))
    assert back.keys() == shapes().keys()
    assert all((back[name] == weights[name]).all() for name in weights)


@pytest.mark.parametrize(("field", "value"), [("algorithm", "SAC"), ("anchor", -0.1), ("anchor", float("nan"))])
def test_settings_that_cannot_be(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"TokenAgent.{field} is"):
        TokenAgent(start=initial_weights(0), **{field: value})


SPACE = space_of(2)


def restless() -> dict[str, np.ndarray]:
    """A fresh network that moves as often as it stays."""
    found = initial_weights(0)
    found["actor.moves.bias"][STAY] -= STAY_PRIOR
    return found


def bound(seed: int = 5) -> LearningPolicy:
    policy = LearningPolicy(TokenAgent(start=restless(), batch=16, learning_rate=1e-3), remote=False)
    policy.bind(ObservationSpec(SPACE), ActionSpec(SPACE), seed=seed)
    return policy


def play(policy: LearningPolicy, seed: int, rounds: int = 4) -> None:
    """Eight members are paid for lowering their learning rate."""
    spec = ObservationSpec(SPACE)
    for segment in range(1, rounds + 1):
        asked = situations(spec, 8, seed=100 * seed + segment)
        transitions = []
        for situation, choice in zip(asked, policy.act(asked), strict=True):
            seen = tuple(situation.observation.tolist())
            decision = Decision(
                member=situation.member,
                segment=segment,
                hyperparameters={},
                positions=(),
                action=choice.action,
                observation=seen,
                logp=choice.logp,
                policy_version=choice.version,
                extras=choice.extras,
            )
            reward = float(choice.action[0] < LEVELS // 2)
            transitions.append(Transition(decision=decision, reward=reward, next_observation=seen, terminated=True))
        chunks = [
            Chunk(episode=f"{t.decision.member}-{seed}-{segment}", member=t.decision.member, start=0, transitions=(t,))
            for t in transitions
        ]
        policy.learn(chunks, wait=True)


def weights(policy: LearningPolicy) -> dict[str, list[float]]:
    return {name: value.tolist() for name, value in policy._local().weights().items()}


def test_it_learns_without_ray_the_same_twice_and_after_a_restore(tmp_path: Path) -> None:
    one, same = bound(), bound()
    for policy in (one, same):
        play(policy, 1)
    assert weights(one) == weights(same) and one.version == 2 and one.metrics["clone_kl"] > 0
    assert one.save(str(tmp_path))
    state = pickle.loads(pickle.dumps(one.get_state()))
    restored = bound(seed=77)
    restored.restore(str(tmp_path))
    restored.set_state(state)
    assert weights(restored) == weights(one) and restored.version == one.version
    for policy in (one, restored):
        play(policy, 2)
    assert weights(restored) == weights(one) != weights(same)
    for policy in (one, same, restored):
        policy.close()


def test_it_learns_what_pays() -> None:
    policy = bound()
    asked = situations(ObservationSpec(SPACE), 64, seed=9)

    def lowering() -> float:
        heads = np.array([choice.extras[ACTION_DIST_INPUTS][:LEVELS] for choice in policy.act(asked)])
        shares = np.exp(heads - heads.max(axis=1, keepdims=True))
        return float((shares / shares.sum(axis=1, keepdims=True))[:, : LEVELS // 2].sum(axis=1).mean())

    before = lowering()
    for seed in range(12):
        play(policy, seed)
    assert lowering() > 1.5 * before
    policy.close()


def test_its_checkpoint_is_not_taken_for_a_fresh_agents(tmp_path: Path) -> None:
    policy = bound()
    assert policy.save(str(tmp_path))
    policy.close()
    other = LearningPolicy(Agent(checkpoint=str(tmp_path)), remote=False)
    with pytest.raises(ValueError, match="has network='tokens', this one 'layers'"):
        other.bind(ObservationSpec(SPACE), ActionSpec(SPACE), seed=0)
