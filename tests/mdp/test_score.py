"""Scores rise as the metric gets better, and nothing breaks them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raytune_rl.mdp import PENALTY, Score

MIN, MAX = (Score(metric="m", mode=mode) for mode in ("min", "max"))
numbers = st.floats(allow_nan=False, allow_infinity=False)


@given(numbers, numbers)
def test_better_never_scores_lower(a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert MIN.of(low) >= MIN.of(high)
    assert MAX.of(low) <= MAX.of(high)


@given(st.floats(allow_nan=True, allow_infinity=True), st.sampled_from([MIN, MAX]))
def test_a_score_is_a_number_between_its_ends_for_any_value(value: float, score: Score) -> None:
    assert PENALTY <= score.of(value) <= -PENALTY


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("score", [MIN, MAX])
def test_what_is_no_number_scores_worst_even_if_it_looks_like_the_best(score, value) -> None:
    assert score.of(value) == PENALTY


@given(st.floats(0.0, 1e6))
def test_losses_are_compared_by_their_logarithm(loss: float) -> None:
    assert MIN.of(loss) == pytest.approx(-math.log(loss + 0.02), abs=1e-9)


@given(st.floats(0.0, 1e5))
def test_the_curve_goes_on_below_zero_as_it_came(loss: float) -> None:
    at_zero = MIN.of(0.0)
    assert MIN.of(-loss) - at_zero == pytest.approx(at_zero - MIN.of(loss), abs=1e-9)


def test_halving_a_loss_is_worth_the_same_for_large_and_small_ones() -> None:
    assert MIN.of(100.0) - MIN.of(200.0) == pytest.approx(MIN.of(1.0) - MIN.of(2.0), abs=0.02)


@given(st.floats(-1e6, 1e6))
def test_what_is_to_be_maximised_is_symmetric(value: float) -> None:
    assert MAX.of(-value) == -MAX.of(value)
    assert abs(MAX.of(value)) == pytest.approx(math.log(1 + abs(value)))


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="'minimum' of the metric 'm' must be 'min' or 'max'"):
        Score(metric="m", mode="minimum")
