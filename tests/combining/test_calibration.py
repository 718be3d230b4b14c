import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raytune_rl.combining.calibration import brier_score, expected_calibration_error, temperature_of, tempered
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


def test_the_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    probabilities = np.array([[0.9, 0.1]] * 10 + [[0.4, 0.6]] * 10)
    targets = np.array([0] * 7 + [1] * 3 + [1] * 6 + [0] * 4)
    assert expected_calibration_error(probabilities, targets) == pytest.approx(0.5 * 0.2 + 0.5 * 0.0)
    assert expected_calibration_error(np.eye(3), np.arange(3)) == 0.0


def test_the_brier_score_is_the_squared_distance() -> None:
    assert brier_score(np.eye(3), np.arange(3)) == 0.0
    assert brier_score(np.array([[0.6, 0.4]]), np.array([1])) == pytest.approx(0.72)
    assert brier_score(np.eye(2), np.array([1, 0])) == 2.0
