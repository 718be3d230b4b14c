"""Convex minimisation on the simplex: over weights that are not negative and sum to 1."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from raytune_rl.combining.losses import Floats

STEPS = 500
TOLERANCE = 1e-9


def project(values: Floats) -> Floats:
    """The point of the simplex, (n,), that is nearest to ``values``, (n,) (Duchi et al. 2008, figure 1)."""
    descending = np.sort(values)[::-1]
    excess = (np.cumsum(descending) - 1.0) / np.arange(1, len(values) + 1)
    kept = int(np.flatnonzero(descending > excess)[-1])
    above = np.maximum(values - excess[kept], 0.0)
    nearest: Floats = above / above.sum()
    return nearest


def minimise_on_simplex(loss: Callable[[Floats], float], slope: Callable[[Floats], Floats], start: Floats) -> Floats:
    """Projected gradient descent with backtracking (Bertsekas 1999, section 2.3); never worse than ``start``.

    Args:
        loss: a convex and differentiable function of a point (n,).
        slope: its gradient, (n,).
        start: a point of the simplex.
    """
    point, value, size = start, loss(start), 1.0
    for _ in range(STEPS):
        gradient = slope(point)
        while True:
            moved = project(point - size * gradient)
            step = moved - point
            moved_value = loss(moved)
            # a loss below this quadratic bound has decreased enough for convergence
            if moved_value <= value + float(gradient @ step) + float(step @ step) / (2.0 * size) or size < 1e-12:
                break
            size *= 0.5
        if not moved_value < value:
            break
        gained, point, value = value - moved_value, moved, moved_value
        if gained < TOLERANCE * max(1.0, abs(value)):
            break
        size *= 2.0
    return point
