import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raytune_rl.combining.calibration import (
    COLDEST,
    DOUBT,
    HOTTEST,
    KNOWN,
    SURPRISES,
    Calibration,
    brier_score,
    calibration_of,
    cost_of_doubt,
    expected_calibration_error,
)
from tests.combining.predictions import applied, made_up


def log_loss(probabilities: np.ndarray, targets: np.ndarray) -> float:
    return float(-np.log(probabilities[np.arange(len(targets)), targets]).mean())


@settings(max_examples=50, deadline=None)
@given(st.floats(0.05, 20.0), st.floats(0.0, 0.99), st.integers(0, 1000))
def test_calibration_does_not_change_an_answer(temperature: float, uniform: float, seed: int) -> None:
    probabilities = np.random.default_rng(seed).dirichlet(np.ones(5), size=20)
    changed = applied(Calibration(temperature, uniform), probabilities)
    assert (changed.argmax(axis=1) == probabilities.argmax(axis=1)).all()
    np.testing.assert_allclose(changed.sum(axis=1), 1.0)


@pytest.mark.parametrize("heat", [0.6, 1.0, 3.0])
@pytest.mark.parametrize("uniform", [0.0, 0.15])
def test_what_was_laid_over_probabilities_is_found(heat: float, uniform: float) -> None:
    """Labels are drawn by the probabilities that a model has at the right calibration."""
    rng = np.random.default_rng(0)
    said = applied(Calibration(1 / heat), rng.dirichlet(np.full(4, 0.3), size=20_000))
    true = applied(Calibration(heat, uniform), said)
    targets = (rng.random((len(true), 1)) > true.cumsum(axis=1)).sum(axis=1)
    found = calibration_of(said, targets)
    assert found.temperature == pytest.approx(heat, rel=0.05)
    assert found.uniform == pytest.approx(uniform, abs=0.01)


def test_padding_does_not_count() -> None:
    predictions, targets = made_up("classification")
    padded = np.where(np.arange(len(targets)) < 60, targets, -1)
    assert calibration_of(predictions[0], padded) == calibration_of(predictions[0][:60], targets[:60])
    assert calibration_of(predictions[0], np.full_like(targets, -1)) == Calibration()


def with_beliefs(probabilities: np.ndarray, targets: np.ndarray, found: Calibration) -> float:
    total = len(targets) * log_loss(applied(found, probabilities), targets)
    surprised, known = SURPRISES * float(np.log(found.uniform)), KNOWN * float(np.log1p(-found.uniform))
    return total + DOUBT * float(np.log(found.temperature)) ** 2 - surprised - known


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 40),
    classes=st.integers(2, 6),
    sureness=st.floats(0.01, 10.0),
    right=st.floats(0.0, 1.0),
)
def test_nothing_of_a_fine_grid_is_better(seed: int, rows: int, classes: int, sureness: float, right: float) -> None:
    rng = np.random.default_rng(seed)
    scores = sureness * rng.normal(size=(rows, classes))
    targets = np.where(rng.random(rows) < right, scores.argmax(axis=1), rng.integers(classes, size=rows))
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    found = calibration_of(probabilities, targets)
    assert COLDEST <= found.temperature <= HOTTEST and 0 < found.uniform < 1
    best = min(
        with_beliefs(probabilities, targets, Calibration(float(temperature), float(uniform)))
        for temperature in np.geomspace(COLDEST * 1.001, HOTTEST / 1.001, 60)
        for uniform in np.geomspace(1e-3, 0.999, 30)
    )
    # what is nearly 1 is taken for 1; and the loss can have two valleys of almost the same depth
    assert with_beliefs(probabilities, targets, found) <= best + 1e-2
    worse = log_loss(applied(found, probabilities), targets) - log_loss(probabilities, targets)
    assert worse <= cost_of_doubt(rows) + 1e-3


def test_few_rows_cannot_move_a_temperature_far_and_many_can() -> None:
    shares, targets = np.tile([0.8, 0.2], (4000, 1)), np.arange(4000) % 10 == 0
    right, wrong, every = np.zeros(5, dtype=np.int64), np.ones(5, dtype=np.int64), targets.astype(np.int64)
    assert COLDEST < calibration_of(shares[:5], right).temperature < 1.0
    assert 1.0 < calibration_of(shares[:5], wrong).temperature < 5.0
    assert applied(calibration_of(shares, every), shares[:1])[0] == pytest.approx([0.9, 0.1], abs=1e-3)


@pytest.mark.parametrize("rows", [20, 200])
def test_who_was_never_wrong_still_expects_to_be(rows: int) -> None:
    sure = np.tile([1.0 - 1e-9, 1e-9], (rows, 1))
    found = calibration_of(sure, np.zeros(rows, dtype=np.int64))
    assert found.uniform == pytest.approx(SURPRISES / (rows / 2 + KNOWN), rel=0.05)  # half of its surprises are right
    mistaken = -np.log(applied(found, sure)[0, 1])  # nothing bounds it without
    assert mistaken < 12.0


def test_a_file_tells_a_calibration() -> None:
    found = Calibration(0.8, 0.02)
    assert Calibration.read(found.told()) == found
    assert Calibration.read({"temperature": 2}) == Calibration(2.0) and Calibration.read({}) == Calibration()
    assert found.in_words() == "a temperature of 0.80 and 2 % of the uniform distribution"
    assert Calibration().in_words() == ""
    for told, named in [({"temperature": 0}, "temperature is 0"), ({"uniform": 1.0}, "uniform is 1.0")]:
        with pytest.raises(ValueError, match=named):
            Calibration.read(told)


def test_the_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    probabilities = np.array([[0.9, 0.1]] * 10 + [[0.4, 0.6]] * 10)
    targets = np.array([0] * 7 + [1] * 3 + [1] * 6 + [0] * 4)
    assert expected_calibration_error(probabilities, targets) == pytest.approx(0.5 * 0.2 + 0.5 * 0.0)
    assert expected_calibration_error(np.eye(3), np.arange(3)) == 0.0


def test_the_brier_score_is_the_squared_distance() -> None:
    assert brier_score(np.eye(3), np.arange(3)) == 0.0
    assert brier_score(np.array([[0.6, 0.4]]), np.array([1])) == pytest.approx(0.72)
    assert brier_score(np.eye(2), np.array([1, 0])) == 2.0
