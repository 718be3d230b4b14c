import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raytune_rl.combining.calibration import (
    COLDEST,
    DOUBT,
    HOTTEST,
    brier_score,
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


@pytest.mark.parametrize("heat", [0.6, 1.0, 3.0])
def test_the_temperature_that_was_laid_over_probabilities_is_found(heat: float) -> None:
    rng = np.random.default_rng(0)
    true = rng.dirichlet(np.ones(4), size=20_000)
    targets = (rng.random((len(true), 1)) > true.cumsum(axis=1)).sum(axis=1)
    assert temperature_of(tempered(true, 1 / heat), targets) == pytest.approx(heat, rel=0.05)


def test_padding_does_not_count() -> None:
    predictions, targets = made_up("classification")
    padded = np.where(np.arange(len(targets)) < 60, targets, -1)
    assert temperature_of(predictions[0], padded) == temperature_of(predictions[0][:60], targets[:60])
    assert temperature_of(predictions[0], np.full_like(targets, -1)) == 1.0


def with_prior(probabilities: np.ndarray, targets: np.ndarray, temperature: float) -> float:
    loss = log_loss(tempered(probabilities, temperature), targets)
    return loss + DOUBT / len(targets) * float(np.log(temperature)) ** 2


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 40),
    classes=st.integers(2, 6),
    sureness=st.floats(0.01, 10.0),
    right=st.floats(0.0, 1.0),
)
def test_no_temperature_of_a_fine_grid_is_better(
    seed: int, rows: int, classes: int, sureness: float, right: float
) -> None:
    rng = np.random.default_rng(seed)
    scores = sureness * rng.normal(size=(rows, classes))
    targets = np.where(rng.random(rows) < right, scores.argmax(axis=1), rng.integers(classes, size=rows))
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    found = temperature_of(probabilities, targets)
    assert COLDEST <= found <= HOTTEST
    inside = np.geomspace(COLDEST * 1.0002, HOTTEST / 1.0002, 300)  # the search ends within 1e-4 of where it should
    best = min(with_prior(probabilities, targets, other) for other in inside)
    # what is nearly 1 is taken for 1
    assert with_prior(probabilities, targets, found) <= best + (1e-3 if found == 1.0 else 1e-6)


def test_few_rows_cannot_move_a_temperature_far_and_many_can() -> None:
    shares, targets = np.tile([0.8, 0.2], (4000, 1)), np.arange(4000) % 10 == 0
    right, wrong, every = np.zeros(5, dtype=np.int64), np.ones(5, dtype=np.int64), targets.astype(np.int64)
    assert COLDEST < temperature_of(shares[:5], right) < 1.0 < temperature_of(shares[:5], wrong) < 5.0
    exact = np.log(4.0) / np.log(9.0)  # which makes shares of 0.9 and 0.1 of them
    assert temperature_of(shares, every) == pytest.approx(exact, rel=1e-2)
    assert temperature_of(np.tile([0.5, 0.5], (3, 1)), np.zeros(3, dtype=np.int64)) == 1.0


def test_the_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    probabilities = np.array([[0.9, 0.1]] * 10 + [[0.4, 0.6]] * 10)
    targets = np.array([0] * 7 + [1] * 3 + [1] * 6 + [0] * 4)
    assert expected_calibration_error(probabilities, targets) == pytest.approx(0.5 * 0.2 + 0.5 * 0.0)
    assert expected_calibration_error(np.eye(3), np.arange(3)) == 0.0


def test_the_brier_score_is_the_squared_distance() -> None:
    assert brier_score(np.eye(3), np.arange(3)) == 0.0
    assert brier_score(np.array([[0.6, 0.4]]), np.array([1])) == pytest.approx(0.72)
    assert brier_score(np.eye(2), np.array([1, 0])) == 2.0
