import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from raytune_rl.combining.simplex import minimise_on_simplex, project

VECTORS = arrays(np.float64, st.integers(1, 8), elements=st.floats(-10, 10))


@settings(max_examples=100, deadline=None)
@given(VECTORS, st.integers(0, 2**31))
def test_the_projection_is_the_nearest_point(values: np.ndarray, seed: int) -> None:
    nearest = project(values)
    assert (nearest >= 0).all() and np.isclose(nearest.sum(), 1.0)
    others = np.random.default_rng(seed).dirichlet(np.ones(len(values)), size=20)
    assert np.linalg.norm(values - nearest) <= np.linalg.norm(values - others, axis=1).min() + 1e-9
    np.testing.assert_allclose(project(nearest), nearest, atol=1e-12)


def test_a_quadratic_is_minimised_where_it_must_be() -> None:
    inside, outside = np.array([0.2, 0.3, 0.5]), np.array([2.0, -1.0, 0.0])
    for goal in (inside, outside):
        found = minimise_on_simplex(
            lambda w, goal=goal: float(((w - goal) ** 2).sum()), lambda w, goal=goal: 2 * (w - goal), np.full(3, 1 / 3)
        )
        np.testing.assert_allclose(found, project(goal), atol=1e-4)
