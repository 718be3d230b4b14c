"""A state follows from the one before and a report, and keeps what matters of it."""

import json
import math
import pickle
from dataclasses import fields, replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raytune_rl.mdp import PENALTY, SIGNALS, EnsembleStats, MemberState, Score, advance, ranking
from raytune_rl.mdp.state import FAILURE_COST, score_change, training_seconds
from tests.mdp.lives import LOSS, MIDDLE, few, live, lives, populations, report


def after(state: MemberState, loss: float | None, **fields) -> MemberState:
    said = report(state.member, state.segment, loss, **fields)
    return advance(state, said, score=LOSS, positions=state.positions)


def test_a_sound_segment_is_taken_over() -> None:
    start = MemberState.start(3, MIDDLE)
    moved = (0.6, 0.5, 0.5, 0.0)
    state = advance(start, report(3, 0, 0.5), score=LOSS, positions=moved)
    assert (state.member, state.segment, state.steps, state.value, state.seconds) == (3, 1, 10, 0.5, 1.0)
    assert state.score == state.best_score == state.first_score == LOSS.of(0.5)
    assert (state.best_segment, state.best_positions) == (0, moved)
    assert state.last_move == pytest.approx((0.1, 0.0, 0.0, -0.5))
    assert start == MemberState.start(3, MIDDLE), "the state before is untouched"


def test_only_a_better_segment_becomes_the_best() -> None:
    state = live([0.5, 0.4, 0.4, 0.9])
    assert (state.best_segment, state.best_score) == (1, LOSS.of(0.4))


def test_the_last_three_scores_are_kept_newest_first() -> None:
    state = live([1.0, 0.5, 0.25, 0.125])
    assert state.history == pytest.approx([LOSS.of(x) for x in (0.125, 0.25, 0.5)])
    assert score_change(state, 1) == pytest.approx(LOSS.of(0.125) - LOSS.of(0.25))
    assert score_change(state, 2) == pytest.approx(LOSS.of(0.125) - LOSS.of(0.5))
    assert score_change(live([1.0]), 1) is None


@pytest.mark.parametrize("status", ["failed", "hung", "diverged"])
def test_a_segment_that_went_wrong_ranks_last_and_leaves_the_past_alone(status) -> None:
    before = live([0.5, 0.4])
    state = after(before, None, status=status)
    assert (state.score, state.status, state.value, state.restarts) == (PENALTY, status, None, 1)
    assert (state.history, state.best_score, state.best_positions) == (
        before.history,
        before.best_score,
        before.best_positions,
    )


@pytest.mark.parametrize("loss", [math.nan, math.inf, None])
def test_a_sound_report_without_a_number_counts_as_diverged(loss) -> None:
    assert after(live([0.5]), loss).status == "diverged"


def test_the_age_of_the_weights_counts_from_the_last_copy() -> None:
    state = live([0.5, 0.4, 0.3])
    assert state.copy_age == 3
    copied = after(state, 0.2, copied_from=1)
    assert (copied.copy_age, after(copied, 0.2).copy_age) == (1, 2)


def test_a_failure_costs_a_bounded_price_until_it_is_made_good() -> None:
    sound = live([0.5, 0.4])
    failed = after(sound, None, status="failed")
    assert failed.credit == pytest.approx(sound.credit - FAILURE_COST)
    assert after(failed, 0.4).credit == pytest.approx(sound.credit)


def test_an_explosion_costs_no_more_at_once_and_all_of_it_in_the_end() -> None:
    state = live([0.5, 1e6])
    assert state.credit == pytest.approx(LOSS.of(0.5) - FAILURE_COST)
    for _ in range(10):
        state = after(state, 1e6)
    assert state.credit == pytest.approx(LOSS.of(1e6))


@few
@given(lives())
def test_nan_is_never_cheaper_than_any_number(states: list[MemberState]) -> None:
    before = states[-1]
    if before.history:
        nan = after(before, math.nan)
        assert all(nan.credit <= after(before, loss).credit for loss in (0.0, 1.0, 1e3, 1e9, 1e300))


@few
@given(lives())
def test_the_credit_equals_the_score_when_nothing_is_left_to_repay(states: list[MemberState]) -> None:
    for before, state in pairwise(states):
        if state.status == "ok" and not before.history:
            assert state.credit == state.score
        elif state.status == "ok":
            assert state.credit == max(state.score, before.credit - FAILURE_COST)


def test_the_gap_is_measured_between_losses() -> None:
    over = after(live([0.5]), 0.8, metrics={"train_loss": 0.2})
    assert over.gap == pytest.approx(math.log(0.82 / 0.22))
    assert over.gap_change is None
    assert after(over, 0.8, metrics={"train_loss": 0.8}).gap_change == pytest.approx(-over.gap)


def test_the_training_loss_may_come_as_a_signal() -> None:
    state = after(live([0.5]), 0.8, signals={"train_loss": 0.2})
    assert state.train_loss == 0.2
    assert state.gap > 0


def test_a_metric_to_be_maximised_is_no_loss_to_compare_with() -> None:
    accuracy = Score(metric="accuracy", mode="max")
    start = MemberState.start(0, MIDDLE)
    said = report(0, 0, None, metrics={"accuracy": 0.9, "train_loss": 0.2})
    assert advance(start, said, score=accuracy, positions=MIDDLE).gap is None
    said = report(0, 0, 0.4, metrics={"accuracy": 0.9, "train_loss": 0.2})
    assert advance(start, said, score=accuracy, positions=MIDDLE).gap == pytest.approx(math.log(0.42 / 0.22))


def test_the_candidates_own_clock_goes_before_the_trials() -> None:
    assert training_seconds(live([0.5])) == 1.0
    assert training_seconds(after(live([0.5]), 0.4, signals={"train_seconds": 0.25})) == 0.25


@few
@given(lives())
def test_a_state_holds_finite_numbers_only(states: list[MemberState]) -> None:
    for state in states:
        for field in fields(state):
            value = getattr(state, field.name)
            for x in value if isinstance(value, tuple) else (value,):
                assert not isinstance(x, float) or math.isfinite(x), field.name


@few
@given(lives())
def test_a_state_survives_json_and_pickle(states: list[MemberState]) -> None:
    state = states[-1]
    assert MemberState.from_dict(state.to_dict()) == state
    assert MemberState.from_dict(json.loads(json.dumps(state.to_dict()))) == state
    placed = replace(state, ensemble=EnsembleStats(greedy=0.3, weight=0.5))
    assert MemberState.from_dict(json.loads(json.dumps(placed.to_dict()))) == placed
    assert pickle.loads(pickle.dumps(state)) == state


def test_a_state_is_small_enough_to_keep_hundreds_per_member() -> None:
    signals = dict.fromkeys(SIGNALS, 0.123)
    state = after(live([0.5, 0.4, 0.3]), 0.2, signals=signals, metrics={"train_loss": 0.1})
    assert len(pickle.dumps(state)) < 2000


def test_the_same_state_can_be_placed_elsewhere() -> None:
    state = live([0.5, 0.4])
    assert state.at(7) == replace(state, segment=7)


@few
@given(populations())
def test_the_ranking_is_by_score_and_the_same_in_any_order(population: list[MemberState]) -> None:
    ranked = ranking(population)
    assert ranked == ranking(reversed(population))
    scores = [state.score for state in ranked]
    assert scores == sorted(scores, reverse=True)
    assert len(ranked) == sum(state.score is not None for state in population)


def test_the_dead_and_the_unscored_are_not_ranked() -> None:
    alive, dead, fresh = live([0.5]), replace(live([0.1], member=1), alive=False), MemberState.start(2, MIDDLE)
    assert ranking([alive, dead, fresh]) == [alive]


@given(st.lists(st.none() | st.floats(0, 1e6), max_size=6), st.integers(0, 5))
def test_going_back_to_an_older_state_and_on_again_gives_the_same(losses: list[float | None], back: int) -> None:
    whole = live(losses)
    anchor = live(losses[:back])
    for loss in losses[back:]:
        anchor = after(anchor, loss, status="failed" if loss is None else "ok")
    assert anchor == whole
