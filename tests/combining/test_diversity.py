import numpy as np
import pytest

from raytune_rl.combining.diversity import ambiguity, disagreement, disagreements
from raytune_rl.combining.losses import KINDS, combine
from tests.combining.predictions import made_up


def test_disagreement_counts_different_answers() -> None:
    predictions = np.eye(3)[[[0, 1, 2, 0], [0, 1, 2, 1], [1, 2, 0, 0]]]
    np.testing.assert_allclose(disagreements(predictions), [[0, 0.25, 0.75], [0.25, 0, 1], [0.75, 1, 0]])
    assert disagreement(predictions) == pytest.approx((0.25 + 0.75 + 1) / 3)
    assert disagreement(predictions[:1]) == 0.0


def test_disagreement_of_values_is_their_distance() -> None:
    predictions = np.array([[[0.0], [0.0]], [[3.0], [4.0]]])
    assert disagreement(predictions, "regression") == pytest.approx(np.sqrt(12.5))


@pytest.mark.parametrize("kind", KINDS)
def test_ambiguity_is_what_combining_gains(kind) -> None:
    predictions, targets = made_up(kind)
    found = ambiguity(predictions, targets, kind)
    assert found.ensemble == pytest.approx(found.members - found.ambiguity)
    assert found.ambiguity > 0
    same = ambiguity(np.repeat(predictions[:1], 4, axis=0), targets, kind)
    assert same.ambiguity == pytest.approx(0, abs=1e-12)


def test_the_ambiguity_of_a_regression_is_the_variance_of_the_members() -> None:
    predictions, targets = made_up("regression")
    weights = np.random.default_rng(0).dirichlet(np.ones(6))
    variance = weights @ np.mean((predictions - combine(predictions, weights)) ** 2, axis=(1, 2))
    assert ambiguity(predictions, targets, "regression", weights).ambiguity == pytest.approx(variance)
