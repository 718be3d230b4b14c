"""One contract for every rule, and what each of them is known for."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import numpy as np
import pytest

from raytune_rl.controller import PBT, Cosine, Fixed, Policy, Random, Situation
from raytune_rl.controller.policies import Replay
from raytune_rl.hyperparameters import STAY
from raytune_rl.mdp.action import ActionSpec
from raytune_rl.mdp.observation import ObservationSpec
from tests.controller.worlds import SPACE, Paper, make_controller

SCRIPT = [{"lr": 10.0**-n, "dropout": 0.1 * n, "init": "kaiming"} for n in (1, 2, 3)]
RULES: list[Callable[[], Policy]] = [Random, Fixed, Cosine, PBT, lambda: Replay(SCRIPT)]


def situation(seed: int = 0, *, first: bool = False, **features: float) -> Situation:
    spec = ObservationSpec(SPACE)
    observation = np.zeros(spec.size, dtype=np.float32)
    for name, value in features.items():
        observation[spec.index(name)] = value
    return Situation(member=0, segment=0 if first else 2, first=first, observation=observation, seed=seed)


def bound(policy: Policy) -> ActionSpec:
    action = ActionSpec(SPACE)
    policy.bind(ObservationSpec(SPACE), action, seed=0)
    return action


@pytest.mark.parametrize("make", RULES)
def test_contract(make: Callable[[], Policy]) -> None:
    policy = make()
    assert isinstance(policy, Policy)
    action = bound(policy)
    situations = [situation(seed, first=seed % 3 == 0, rank=seed % 2) for seed in range(30)]
    choices = policy.act(situations)
    assert all(0 <= i < n for choice in choices for i, n in zip(choice.action, action.nvec, strict=True))
    # A decision depends on its own seed only, not on its neighbours nor on what came before.
    assert [c.action for c in policy.act(situations[::-1])] == [c.action for c in choices][::-1]
    copy = pickle.loads(pickle.dumps(policy))
    copy.set_state(policy.get_state())
    assert [c.action for c in copy.act(situations)] == [c.action for c in choices]
    assert policy.act([]) == []
    assert policy.save("/nowhere") is False


@pytest.mark.parametrize("make", RULES)
def test_runs_to_the_end(make: Callable[[], Policy]) -> None:
    paper = Paper(make_controller(make(), agent_starts=True))
    steps = paper.play()
    assert len(steps) == 6
    assert paper.controller.incumbent is not None


def test_fixed_never_moves() -> None:
    paper = Paper(make_controller(Fixed()))
    paper.play()
    assert all(d.positions == paper.controller.begin(m).positions for m, d in paper.decisions.items())


def test_cosine_decays_the_learning_rate_and_nothing_else() -> None:
    paper = Paper(make_controller(Cosine(), segments=8))
    first = {m: d.hyperparameters for m, d in paper.decisions.items()}
    steps = paper.play()
    member = max(first, key=lambda m: float(first[m]["lr"]))
    rates = [float(r.hyperparameters["lr"]) for s in steps for r in s.reports if r.member == member]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.05 * rates[0]
    assert {r.hyperparameters["dropout"] for s in steps for r in s.reports if r.member == member} == {
        first[member]["dropout"]
    }


def test_pbt_copies_at_the_bottom_only() -> None:
    policy = PBT(quantile=0.25)
    action = bound(policy)
    (top,) = policy.act([situation(1, rank=0.2)])
    assert top.action == action.neutral
    names = set()
    for seed in range(20):
        (bottom,) = policy.act([situation(seed, rank=1.0)])
        source = bottom.action[action.names.index("source")]
        names.add(action.sources[source])
        assert all(abs(i - STAY) == 1 for i in bottom.action[: len(SPACE)])
    assert names == {"best", "second"}


def test_pbt_refuses_a_quantile_that_is_none() -> None:
    with pytest.raises(ValueError, match="quantile"):
        PBT(quantile=0.7)


def test_replay_repeats_the_recorded_values_and_then_keeps_the_last() -> None:
    paper = Paper(make_controller(Replay(SCRIPT), schedule="cosine"))
    used = [dict(step.reports[2].hyperparameters) for step in paper.play()]
    assert used == [*SCRIPT, SCRIPT[-1], SCRIPT[-1], SCRIPT[-1]]
    with pytest.raises(ValueError, match="at least one segment"):
        Replay([])
