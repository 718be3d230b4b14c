"""The policy's dealings with its learner, played with a scripted one: no cluster, no RLlib training."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from raytune_rl.controller.policy import Choice, Policy, Situation
from raytune_rl.records import Chunk, Decision, Transition
from raytune_rl.rllib import Agent, LearningPolicy, policy
from raytune_rl.rllib.link import Update
from tests import toy

SIZE = toy.ToyObservation().size
NVEC = toy.toy_action().nvec


class Learner:
    """Stands for the link and the learner behind it. ``answers`` are given in turn; exceptions are raised."""

    def __init__(self) -> None:
        self.answers: deque[Any] = deque()
        self.built: list[dict[str, Any]] = []
        self.calls: list[tuple[str, Any]] = []
        self.busy = False

    def __call__(self, agent: Agent, sizes: Any, **arguments: Any) -> Learner:
        self.built.append(arguments)
        return self

    def start(self, method: str, *arguments: Any) -> Learner:
        self.calls.append((method, arguments))
        return self

    def ready(self) -> bool:
        return not self.busy

    def result(self) -> Any:
        answer = self.answers.popleft()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        pass

    @property
    def batches(self) -> list[int]:
        return [sum(len(c.transitions) for c in args[0]) for method, args in self.calls if method == "learn"]


@pytest.fixture
def learner(monkeypatch: pytest.MonkeyPatch) -> Learner:
    scripted = Learner()
    monkeypatch.setattr(policy, "LocalLink", scripted)
    return scripted


def _policy(**settings: Any) -> LearningPolicy:
    bound = LearningPolicy(Agent(**{"batch": 4, **settings}), remote=False)
    bound.bind(toy.ToyObservation(), toy.toy_action(), seed=3)  # type: ignore[arg-type]
    return bound


def _situation(seed: int = 0) -> Situation:
    return Situation(member=0, segment=1, first=False, observation=np.zeros(SIZE, dtype=np.float32), seed=seed)


def _chunk(start: int, length: int, version: int = 0, **changes: Any) -> Chunk:
    extras = {"action_dist_inputs": (0.0,) * sum(NVEC), "action_logp": (-1.0,)}
    fields = {"action": (0,) * len(NVEC), "extras": extras, "policy_version": version, **changes}
    transitions = tuple(
        Transition(
            decision=Decision(
                member=0, segment=i, hyperparameters={}, positions=(), observation=(0.0,) * SIZE, **fields
            ),
            reward=0.1,
            next_observation=(0.0,) * SIZE,
        )
        for i in range(start, start + length)
    )
    return Chunk(episode="0-0", member=0, start=start, transitions=transitions)


def _update(bound: LearningPolicy, version: int, change: Callable[[Any], Any] = lambda w: w + 1.0) -> Update:
    weights = {name: change(value) for name, value in bound._local().weights().items()}
    return Update(version=version, weights=weights, transitions=4 * version, calls=version)


def test_it_is_a_policy() -> None:
    assert isinstance(LearningPolicy(Agent()), Policy)


def test_a_batch_is_sent_when_it_is_full_and_the_new_weights_act(learner: Learner) -> None:
    bound = _policy()
    before = bound.act([_situation()])[0]
    bound.learn([_chunk(0, 3)])
    assert learner.batches == []
    learner.answers.append(_update(bound, 1))
    bound.learn([_chunk(3, 1)])
    assert learner.batches == [4] and len(learner.calls[0][1][0]) == 1, "the pieces were not joined"
    after: Choice = bound.act([_situation()])[0]
    assert (before.version, after.version, bound.version, bound.transitions) == (0, 1, 1, 4)
    assert after.extras["action_dist_inputs"] != before.extras["action_dist_inputs"]


def test_one_call_at_a_time_while_the_outbox_grows(learner: Learner) -> None:
    bound = _policy()
    learner.busy = True
    for i in range(5):
        bound.learn([_chunk(4 * i, 4)])
    assert learner.batches == [4] and bound.version == 0
    learner.busy = False
    learner.answers += [_update(bound, 1), _update(bound, 2)]
    bound.learn([])
    assert learner.batches == [4, 16] and bound.version == 2


def test_waiting_learns_all_that_is_there(learner: Learner) -> None:
    bound = _policy()
    learner.busy = True
    bound.learn([_chunk(0, 4)])
    bound.learn([_chunk(4, 4)])
    learner.answers += [_update(bound, 1), _update(bound, 2)]
    bound.learn([], wait=True)
    assert bound.version == 2 and learner.batches == [4, 4]


def test_a_learner_that_lags_loses_the_oldest(learner: Learner) -> None:
    bound = _policy()
    learner.busy = True
    for i in range(20):
        bound.learn([_chunk(4 * i, 4)])
    waiting = sum(len(c.transitions) for c in bound.get_state()["outbox"])
    assert waiting == 4 * policy.OUTBOX_FRESH
    assert bound.dropped == 20 * 4 - 4 - waiting


def test_stale_transitions_are_dropped_by_ppo_and_kept_by_appo(learner: Learner) -> None:
    for name, expected in (("PPO", 4), ("APPO", 8)):
        bound = _policy(algorithm=name)
        bound.version = 10
        learner.calls.clear()
        learner.answers.append(_update(bound, 11))
        bound.learn([_chunk(0, 4, version=10 - policy.MAX_LAG - 1), _chunk(4, 4, version=10 - policy.MAX_LAG)])
        assert learner.batches == [expected]
        assert bound.dropped == 8 - expected


def test_decisions_of_others_are_not_learned_from(learner: Learner) -> None:
    bound = _policy()
    bound.learn([_chunk(0, 4, action=()), _chunk(4, 4, extras={})])
    assert bound.transitions == 0 and learner.calls == []


def test_a_refused_update_changes_nothing(learner: Learner) -> None:
    bound = _policy()
    before = bound.act([_situation()])
    learner.answers.append(Update(version=0, weights=None, transitions=4, calls=1))
    bound.learn([_chunk(0, 4)])
    assert bound.act([_situation()]) == before and bound.restarts == 0


def test_old_weights_never_replace_newer_ones(learner: Learner) -> None:
    bound = _policy(algorithm="APPO")
    learner.answers += [_update(bound, 5), _update(bound, 4)]
    bound.learn([_chunk(0, 4)])
    bound.learn([_chunk(4, 4)])
    assert bound.version == 5


def test_a_failure_is_survived_and_the_experience_is_sent_again(
    learner: Learner, caplog: pytest.LogCaptureFixture
) -> None:
    bound = _policy()
    learner.answers += [_update(bound, 1), RuntimeError("boom")]
    bound.learn([_chunk(0, 4)])
    bound.learn([_chunk(4, 4)])
    assert bound.restarts == 1 and "boom" in caplog.text
    rebuilt = learner.built[-1]
    assert rebuilt["version"] == 1 and rebuilt["weights"] is not None, "the newest weights were lost"
    assert len(bound.act([_situation()])) == 1
    learner.answers.append(_update(bound, 2))
    bound.learn([])
    assert learner.batches == [4, 4, 4] and bound.version == 2 and bound.dropped == 0


def test_experience_that_kills_twice_is_given_up_and_so_is_a_hopeless_learner(
    learner: Learner, caplog: pytest.LogCaptureFixture
) -> None:
    bound = _policy()
    learner.answers.extend(RuntimeError("boom") for _ in range(policy.MAX_FAILURES))
    for i in range(2 * policy.MAX_FAILURES):
        bound.learn([_chunk(4 * i, 4)], wait=True)
    assert bound.restarts == policy.MAX_FAILURES and "without learning" in caplog.text
    assert bound.dropped > 0
    assert len(bound.act([_situation()])) == 1


def test_without_learning_there_is_no_learner(learner: Learner) -> None:
    bound = _policy(learn=False)
    bound.learn([_chunk(0, 8)], wait=True)
    assert learner.built == [] and not bound.save("nowhere")
    assert len(bound.act([_situation()])) == 1


def test_experience_on_its_way_survives_in_the_state(learner: Learner) -> None:
    bound = _policy()
    learner.busy = True
    bound.learn([_chunk(0, 4)])
    bound.learn([_chunk(4, 2)])
    state = pickle.loads(pickle.dumps(bound.get_state()))
    again = _policy()
    again.set_state(state)
    learner.calls.clear()
    again.learn([])
    assert learner.batches == [6] and again.transitions == 6


def test_a_learner_that_went_with_its_ray_is_not_asked_for(
    learner: Learner, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """Whoever calls Ray after ``ray.shutdown()`` starts another one, or waits for one that is gone."""
    monkeypatch.setattr(policy, "ActorLink", learner)
    up = [True]
    monkeypatch.setattr(policy, "_ray_is_up", lambda: up[0])
    bound = LearningPolicy(Agent(batch=4), remote=True)
    bound.bind(toy.ToyObservation(), toy.toy_action(), seed=3)  # type: ignore[arg-type]
    learner.busy = True
    bound.learn([_chunk(0, 5)])
    assert learner.batches == [5]
    up[0] = False
    for method in ("start", "ready", "result", "close"):
        monkeypatch.setattr(learner, method, lambda *_: pytest.fail("Ray was asked"))
    bound.learn([])
    assert not bound.save(str(tmp_path))
    assert sum(len(chunk.transitions) for chunk in bound.get_state()["outbox"]) == 5  # nothing is lost
    bound.close()
    assert bound.restarts == 0


def test_pickling_leaves_live_things_behind(learner: Learner) -> None:
    bound = _policy()
    bound.act([_situation()])
    learner.busy = True
    bound.learn([_chunk(0, 4)])
    copy = pickle.loads(pickle.dumps(bound))
    assert len(pickle.dumps(bound)) < 20_000
    assert copy.agent == bound.agent and copy.transitions == 4
    copy.bind(toy.ToyObservation(), toy.toy_action(), seed=3)
    assert copy.act([_situation()]) == bound.act([_situation()])


def test_a_checkpoint_that_is_not_there_is_said_at_once(learner: Learner, tmp_path: Any) -> None:
    with pytest.raises(ValueError, match="no complete agent checkpoint"):
        _policy(checkpoint=str(tmp_path))
