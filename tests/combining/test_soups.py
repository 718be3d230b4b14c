import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raytune_rl.combining.soups import STEPS, soup_shares


class Bowl:
    """Models are points, and a model's loss is its squared distance from the origin; so averages help."""

    def __init__(self, points: np.ndarray) -> None:
        self.points = points
        self.judged: list[np.ndarray] = []

    def losses(self) -> np.ndarray:
        return self(np.eye(len(self.points)))

    def __call__(self, shares: np.ndarray) -> np.ndarray:
        self.judged.append(shares)
        used = shares.any(axis=0)
        found: np.ndarray = ((shares[:, used] @ self.points[used]) ** 2).sum(axis=1)
        return found


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 24), most=st.integers(1, 24), bumpy=st.booleans())
def test_an_average_is_never_worse_than_the_best_by_itself(seed: int, count: int, most: int, bumpy: bool) -> None:
    rng = np.random.default_rng(seed)
    bowl = Bowl(rng.normal(size=(count, 3)) + 0.5)
    alone = bowl.losses()

    def judge(shares: np.ndarray) -> np.ndarray:
        """Where it is ``bumpy``, averages lose something that no candidate does: candidates of several basins."""
        ridge = 1.0 - (shares**2).sum(axis=1)
        found: np.ndarray = bowl(shares) + rng.uniform(0.0, 3.0) * ridge * bumpy
        return found

    shares = soup_shares(alone, judge, most=most)
    assert shares.shape == (count,) and (shares >= 0.0).all() and shares.sum() == pytest.approx(1.0)
    assert bowl(shares[None])[0] <= alone.min() + 1e-12
    best = np.argsort(alone, kind="stable")[:most]
    assert not np.delete(shares, best).any()
    assert all(not np.delete(tried, best, axis=1).any() for tried in bowl.judged[1:])


def test_two_that_err_in_opposite_directions_are_averaged() -> None:
    bowl = Bowl(np.array([[1.0], [-1.0], [5.0]]))
    np.testing.assert_allclose(soup_shares(bowl.losses(), bowl), [0.5, 0.5, 0.0])
    assert [len(tried) for tried in bowl.judged[1:]] == [len(STEPS)] * 2


def test_who_has_no_finite_loss_is_left_out() -> None:
    bowl = Bowl(np.array([[np.nan], [2.0], [np.inf], [-2.0]]))
    shares = soup_shares([np.nan, 4.0, np.inf, 4.0], bowl)
    np.testing.assert_allclose(shares, [0.0, 0.5, 0.0, 0.5])
    assert all(np.isfinite(tried).all() and not tried[:, [0, 2]].any() for tried in bowl.judged)


def test_averages_that_are_nothing_are_not_taken() -> None:
    shares = soup_shares([1.0, 2.0], lambda tried: np.full(len(tried), np.nan))
    np.testing.assert_array_equal(shares, [1.0, 0.0])


@pytest.mark.parametrize("losses", [[], [np.nan, np.inf]])
def test_without_a_finite_loss_there_is_no_average(losses: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        soup_shares(losses, lambda tried: np.zeros(len(tried)))
