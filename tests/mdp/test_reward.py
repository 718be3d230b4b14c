"""Rewards add up to what was reached, and no failure breaks them."""

import math
import pickle
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raytune_rl.mdp import (
    EnsembleStats,
    MemberState,
    Reward,
    RewardContext,
    cost_aware,
    difference,
    final,
    improvement,
    mixed,
    team,
)
from raytune_rl.mdp.reward import MAX_RELATIVE_COST, MIXED_LIMIT
from raytune_rl.mdp.state import FAILURE_COST
from tests.mdp.lives import LOSS, MIDDLE, few, live, lives, wild

REWARDS = [improvement(), final(), cost_aware(0.1), team(), difference(), mixed()]


def pay(reward: Reward, states: list[MemberState]) -> list[float]:
    """What every segment of a life is paid."""
    last = len(states) - 2
    return [
        reward(before, after, RewardContext(final=i == last, seconds=1.0, population=(after,)))
        for i, (before, after) in enumerate(pairwise(states))
    ]


@given(st.lists(st.floats(0.0, 100.0), min_size=1, max_size=8))
def test_improvements_add_up_to_the_final_score(losses: list[float]) -> None:
    # The last loss is lived through until nothing of a sudden rise is left to pay.
    states = [live(losses[:n]) for n in range(len(losses) + 1)]
    states += [live([*losses, *losses[-1:] * n]) for n in range(1, 8)]
    assert sum(pay(improvement(), states)) == pytest.approx(LOSS.of(losses[-1]))


@few
@given(lives())
def test_improvement_and_final_pay_the_same_in_sum(states: list[MemberState]) -> None:
    assert sum(pay(improvement(), states)) == pytest.approx(states[-1].credit)
    assert sum(pay(final(), states)) == pytest.approx(sum(pay(improvement(), states)))


@few
@given(lives())
def test_the_final_reward_comes_at_the_end_only(states: list[MemberState]) -> None:
    assert not any(pay(final(), states)[:-1])


@few
@given(lives(), st.integers(0, 6))
def test_an_episode_that_is_wound_back_adds_up_too(states: list[MemberState], segment: int) -> None:
    later = states[min(segment, len(states) - 1) :]
    assert sum(pay(improvement(), later)) == pytest.approx(states[-1].credit - later[0].credit)


def test_the_first_segment_is_paid_in_full() -> None:
    start = MemberState.start(0, MIDDLE)
    assert start.credit == 0.0
    assert pay(improvement(), [start, live([0.5])]) == pytest.approx([LOSS.of(0.5)])


@few
@given(lives())
def test_after_its_first_report_no_segment_costs_more_than_a_failure(states: list[MemberState]) -> None:
    for before, reward in zip(states, pay(improvement(), states), strict=False):
        assert reward >= -FAILURE_COST - 1e-9 or not before.history


def test_a_failure_is_penalised() -> None:
    assert pay(improvement(), [live([0.5]), live([0.5, None])]) == pytest.approx([-FAILURE_COST])


def test_time_costs_relative_to_the_population() -> None:
    before, after = live([0.5]), live([0.5, 0.5])
    others = (after, after)  # one second each
    slow, fast = (RewardContext(final=False, seconds=s, population=others) for s in (2.0, 0.5))
    assert cost_aware(0.1)(before, after, slow) == pytest.approx(-0.2)
    assert cost_aware(0.1)(before, after, fast) == pytest.approx(-0.05)
    assert cost_aware(0.0)(before, after, slow) == improvement()(before, after, slow)


@pytest.mark.parametrize(
    ("seconds", "relative"), [(1e9, MAX_RELATIVE_COST), (math.nan, 1.0), (math.inf, 1.0), (-1.0, 0)]
)
def test_a_machine_that_hangs_does_not_ruin_the_agent(seconds, relative) -> None:
    before, after = live([0.5]), live([0.5, 0.5])
    context = RewardContext(final=False, seconds=seconds, population=(after,))
    assert cost_aware(0.1)(before, after, context) == pytest.approx(-0.1 * relative)


def test_without_any_known_time_a_segment_costs_what_an_average_one_does() -> None:
    before, after = live([0.5]), live([0.5, 0.5])
    assert cost_aware(0.1)(before, after, RewardContext(final=False)) == pytest.approx(-0.1)


@few
@given(lives(), st.booleans(), wild)
def test_every_reward_is_finite_whatever_happens(states: list[MemberState], end: bool, seconds: float) -> None:
    context = RewardContext(final=end, seconds=seconds, population=tuple(states))
    assert all(math.isfinite(reward(b, a, context)) for b, a in pairwise(states) for reward in REWARDS)


@pytest.mark.parametrize("reward", REWARDS, ids=repr)
def test_every_reward_has_a_name_and_survives_pickling(reward) -> None:
    assert pickle.loads(pickle.dumps(reward)) == reward
    assert repr(reward) == reward.name


@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf])
def test_a_weight_without_meaning_is_refused(weight) -> None:
    with pytest.raises(ValueError, match="weight"):
        cost_aware(weight)


numbers = st.floats(-4.0, 4.0)
ensemble_stats = st.builds(EnsembleStats, greedy=numbers, contribution=numbers, incumbent=numbers)


def in_ensemble(found: list[EnsembleStats]) -> list[MemberState]:
    """The states of a member with these ensemble statistics, one per sound segment."""
    states = [MemberState.start(0, MIDDLE, ensemble=EnsembleStats())]
    for segment, one in enumerate(found):
        before = states[-1].ensemble
        assert before is not None
        now = one.after(before, incumbent=one.incumbent)
        states.append(replace(live([0.5] * (segment + 1)), ensemble=now))
    return states


@given(st.lists(ensemble_stats, min_size=1, max_size=6))
def test_rewards_for_the_ensemble_add_up_to_what_was_reached(found: list[EnsembleStats]) -> None:
    states = in_ensemble(found)
    assert sum(pay(team(), states)) == pytest.approx(found[-1].greedy)
    assert sum(pay(difference(3.0), states)) == pytest.approx(3.0 * found[-1].contribution)
    assert all(abs(paid) <= MIXED_LIMIT for paid in pay(mixed(), states))


def test_the_mixture_weighs_team_contribution_and_incumbent() -> None:
    states = in_ensemble([EnsembleStats(greedy=0.2, contribution=0.1, incumbent=0.4)])
    assert pay(mixed(), states) == pytest.approx([0.5 * 0.2 + 4.0 * 0.1 + 0.25 * 0.4])
    assert pay(mixed(1.0, 0.0, 0.0), states) == pytest.approx(pay(team(), states))


def test_the_mixture_can_pay_for_the_members_own_gain() -> None:
    states = [live([0.5]), replace(live([0.5, 0.1]), ensemble=EnsembleStats())]
    assert pay(mixed(0.0, 0.0, 0.0, own=0.5), states) == pytest.approx(
        [0.5 * paid for paid in pay(improvement(), states)]
    )
    assert pay(mixed(0.0, 0.0, 0.0), states) == [0.0]
    assert repr(mixed(own=0.5)) == "mixed(0.5, 4, 0.25, 0.5)" and repr(mixed()) == "mixed(0.5, 4, 0.25)"


def test_a_failure_costs_the_same_whatever_the_ensemble_does() -> None:
    before = in_ensemble([EnsembleStats(greedy=0.2, contribution=-3.0)])[-1]
    after = replace(live([0.5, None]), ensemble=EnsembleStats(greedy=5.0))
    for reward in (team(), difference(), mixed()):
        assert pay(reward, [before, after]) == [-FAILURE_COST]


def test_without_an_ensemble_nothing_is_paid_for_it() -> None:
    assert pay(team(), [live([0.5]), live([0.5, 0.1])]) == [0.0]
    assert [reward.ensemble for reward in REWARDS] == [False] * 3 + [True] * 3


@pytest.mark.parametrize("make", [difference, mixed])
def test_a_scale_without_meaning_is_refused(make) -> None:
    with pytest.raises(ValueError, match="must be a number of at least 0"):
        make(-1.0)
