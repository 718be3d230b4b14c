import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raytune_rl.combining.calibration import (
    COLDEST,
    HOTTEST,
    brier_score,
    cautious_temperature,
    expected_calibration_error,
    temperature_of,
    tempered,
)
from tests.combining.predictions import made_up


def log_loss(probabilities: np.ndarray, targets: np.ndarray) -> float:
    return float(-np.log(probabilities[np.arange(len(targets)), targets]).mean())


@settings(max_examples=50, deadline=None)
@given(st.floats(0.05, 20.0), st.integers(0, 1000))
def test_calibration_does_not_change_an_answer(temperature: float, seed: int) -> None:
    probabilities = np.random.default_rng(seed).dirichlet(np.ones(5), size=20)
    changed = tempered(probabilities, temperature)
    assert (changed.argmax(axis=1) == probabilities.argmax(axis=1)).all()
    np.testing.assert_allclose(changed.sum(axis=1), 1.0)


@pytest.mark.parametrize("heat", [0.4, 1.0, 3.0])
def test_the_temperature_that_was_laid_over_probabilities_is_found(heat: float) -> None:
    rng = np.random.default_rng(0)
    true = rng.dirichlet(np.ones(4), size=20_000)
    targets = (rng.random((len(true), 1)) > true.cumsum(axis=1)).sum(axis=1)
    assert temperature_of(tempered(true, 1 / heat), targets) == pytest.approx(heat, rel=0.05)


def test_no_other_temperature_is_better_and_padding_does_not_count() -> None:
    predictions, targets = made_up("classification")
    found = temperature_of(predictions[0], targets)
    best = log_loss(tempered(predictions[0], found), targets)
    assert all(best <= log_loss(tempered(predictions[0], other), targets) + 1e-9 for other in np.geomspace(0.1, 10, 50))
    padded = np.where(np.arange(len(targets)) < 60, targets, -1)
    assert temperature_of(predictions[0], padded) == temperature_of(predictions[0][:60], targets[:60])


def with_prior(probabilities: np.ndarray, targets: np.ndarray, temperature: float, doubt: float) -> float:
    loss = log_loss(tempered(probabilities, temperature), targets)
    return loss + doubt / len(targets) * float(np.log(temperature)) ** 2


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 40),
    classes=st.integers(2, 6),
    sureness=st.floats(0.01, 10.0),
    right=st.floats(0.0, 1.0),
    doubt=st.sampled_from([0.0, 0.01, 0.5, 3.0]),
    coldest=st.sampled_from([COLDEST, 0.3, 0.5, 1.0]),
)
def test_no_temperature_of_a_fine_grid_is_better(
    seed: int, rows: int, classes: int, sureness: float, right: float, doubt: float, coldest: float
) -> None:
    rng = np.random.default_rng(seed)
    scores = sureness * rng.normal(size=(rows, classes))
    targets = np.where(rng.random(rows) < right, scores.argmax(axis=1), rng.integers(classes, size=rows))
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    found = temperature_of(probabilities, targets, coldest=coldest, doubt=doubt)
    assert coldest <= found <= HOTTEST
    inside = np.geomspace(coldest * 1.0002, HOTTEST / 1.0002, 300)  # the search ends within 1e-4 of where it should
    best = min(with_prior(probabilities, targets, other, doubt) for other in inside)
    assert with_prior(probabilities, targets, found, doubt) <= best + 1e-6


@pytest.mark.parametrize(("doubt", "sharp"), [(0.065, True), (0.08, False)])
def test_of_two_valleys_the_deeper_one_is_found(doubt: float, sharp: bool) -> None:
    """Two rows, nearly undecided and both right: a temperature not far from 1, or all the sharpness that there is."""
    probabilities, targets = np.tile([0.5125, 0.4875], (2, 1)), np.zeros(2, dtype=np.int64)
    temperatures = np.geomspace(COLDEST, HOTTEST, 2000)
    values = np.array([with_prior(probabilities, targets, each, doubt) for each in temperatures])
    assert values[0] < values[1] and ((values[1:-1] < values[:-2]) & (values[1:-1] < values[2:])).any()
    found = temperature_of(probabilities, targets, doubt=doubt)
    assert (found < 0.051) == sharp
    assert with_prior(probabilities, targets, found, doubt) <= values.min() + 1e-6


def test_few_rows_cannot_move_a_temperature_far_and_many_can() -> None:
    shares, targets = np.tile([0.8, 0.2], (4000, 1)), np.arange(4000) % 10 == 0
    right, wrong, every = np.zeros(5, dtype=np.int64), np.ones(5, dtype=np.int64), targets.astype(np.int64)
    assert temperature_of(shares[:5], right) < 0.051 and temperature_of(shares[:5], wrong) > 19.0
    assert (
        0.3 < temperature_of(shares[:5], right, doubt=0.5) < 1.0 < temperature_of(shares[:5], wrong, doubt=0.5) < 19.0
    )
    exact = np.log(4.0) / np.log(9.0)  # which makes shares of 0.9 and 0.1 of them
    assert temperature_of(shares, every) == pytest.approx(exact, rel=1e-3)
    assert temperature_of(shares, every, doubt=0.5) == pytest.approx(exact, rel=1e-2)
    assert temperature_of(shares, every, coldest=1.0) == pytest.approx(1.0, abs=1e-3)


def test_the_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    probabilities = np.array([[0.9, 0.1]] * 10 + [[0.4, 0.6]] * 10)
    targets = np.array([0] * 7 + [1] * 3 + [1] * 6 + [0] * 4)
    assert expected_calibration_error(probabilities, targets) == pytest.approx(0.5 * 0.2 + 0.5 * 0.0)
    assert expected_calibration_error(np.eye(3), np.arange(3)) == 0.0


def test_the_brier_score_is_the_squared_distance() -> None:
    assert brier_score(np.eye(3), np.arange(3)) == 0.0
    assert brier_score(np.array([[0.6, 0.4]]), np.array([1])) == pytest.approx(0.72)
    assert brier_score(np.eye(2), np.array([1, 0])) == 2.0


def test_few_rows_that_are_all_right_do_not_make_a_model_sure() -> None:
    shares = np.tile([0.8, 0.2], (3, 1))
    assert temperature_of(shares, np.zeros(3, dtype=np.int64)) < 0.06
    assert 0.5 <= cautious_temperature(shares, np.zeros(3, dtype=np.int64)) < 1.0
    assert cautious_temperature(np.tile([0.5, 0.5], (3, 1)), np.zeros(3, dtype=np.int64)) == 1.0
