"""Whether probabilities mean what they say: temperature scaling, expected calibration error, Brier score."""

from __future__ import annotations

import math

import numpy as np

from raytune_rl.combining.losses import Array, Floats

TINY = 1e-12
COLDEST, HOTTEST = 0.5, 20.0
DOUBT = 2.0
"""Rows that the belief in a temperature of 1 is worth (experiments/controller/LOG.md: "Temperature")."""
NEAR = 0.01
"""What is nearer than this to 1 is 1."""
GOLDEN = (5**0.5 - 1) / 2


def tempered(probabilities: Array, temperature: float) -> Floats:
    """Probabilities (..., classes) to the power of ``1 / temperature``, normalised: above 1 flatter, below sharper. The
    order of the classes stays."""
    logs = np.log(np.maximum(np.asarray(probabilities, dtype=np.float64), TINY)) / temperature
    powers = np.exp(logs - logs.max(axis=-1, keepdims=True))
    found: Floats = powers / powers.sum(axis=-1, keepdims=True)
    return found


def temperature_of(probabilities: Array, targets: Array) -> float:
    """The temperature with the lowest log loss (Guo et al. 2017, section 4.2), in [0.5, 20], for the few rows of a
    validation split.

    ``DOUBT`` times the square of the temperature's logarithm is added to the sum of the losses, a Gaussian prior, so
    that few rows cannot make a model sure of itself, or take all sureness from it. An ensemble is calibrated as one,
    after averaging (Rahaman and Thiery 2021, section 4). All of it is convex in the inverse of the temperature (the
    prior up to an inverse of e), so a golden-section search finds it.

    Args:
        probabilities: shape (rows, classes).
        targets: shape (rows,), int; rows with a negative one do not count. Where none does it is 1.
    """
    targets = np.asarray(targets)
    kept = targets >= 0
    if not kept.any():
        return 1.0
    logs = np.log(np.maximum(np.asarray(probabilities, dtype=np.float64)[kept], TINY))
    chosen = logs[np.arange(len(logs)), targets[kept]]

    def loss(inverse: float) -> float:
        scaled = inverse * logs
        top = scaled.max(axis=1)
        mean = np.mean(top + np.log(np.exp(scaled - top[:, None]).sum(axis=1)) - inverse * chosen)
        return float(mean) + DOUBT / len(logs) * math.log(inverse) ** 2

    low, high = 1.0 / HOTTEST, 1.0 / COLDEST
    while high - low > 1e-4 * high:
        left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        low, high = (low, right) if loss(left) <= loss(right) else (left, high)
    found = 2.0 / (low + high)
    return found if abs(found - 1.0) >= NEAR else 1.0


def expected_calibration_error(probabilities: Array, targets: Array, *, bins: int = 15) -> float:
    """ECE (Guo et al. 2017, equation 3): confidence against accuracy in ``bins`` bins of equal width, weighted by
    their rows; in [0, 1].

    Args:
        probabilities: shape (rows, classes).
        targets: shape (rows,), int.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == np.asarray(targets)
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(place, weights=confidence - right, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def brier_score(probabilities: Array, targets: Array) -> float:
    """The squared distance to the right answer, summed over the classes and averaged over the rows (Brier 1950); in
    [0, 2]. Shapes as for ``expected_calibration_error``."""
    off = np.array(probabilities, dtype=np.float64)
    off[np.arange(len(off)), np.asarray(targets)] -= 1.0
    return float(np.mean((off * off).sum(axis=1)))
