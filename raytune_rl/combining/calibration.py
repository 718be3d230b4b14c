"""Whether probabilities mean what they say: temperature scaling, expected calibration error, Brier score."""

from __future__ import annotations

import math

import numpy as np

from raytune_rl.combining.losses import Array, Floats

TINY = 1e-12
COLDEST, HOTTEST = 0.05, 20.0
GOLDEN = (5**0.5 - 1) / 2
PLACES = 40
"""Temperatures that are looked at before the search, where that is needed: each 1.17 times the one before."""


def tempered(probabilities: Array, temperature: float) -> Floats:
    """Probabilities (..., classes) to the power of ``1 / temperature``, normalised: above 1 flatter, below sharper. The
    order of the classes stays."""
    logs = np.log(np.maximum(np.asarray(probabilities, dtype=np.float64), TINY)) / temperature
    powers = np.exp(logs - logs.max(axis=-1, keepdims=True))
    found: Floats = powers / powers.sum(axis=-1, keepdims=True)
    return found


def temperature_of(probabilities: Array, targets: Array, *, coldest: float = COLDEST, doubt: float = 0.0) -> float:
    """The temperature with the lowest log loss (Guo et al. 2017, section 4.2), in [``coldest``, 20].

    An ensemble is calibrated as one, after averaging (Rahaman and Thiery 2021, section 4). The log loss is convex in
    the inverse of the temperature, so a golden-section search finds it.

    Args:
        probabilities: shape (rows, classes).
        targets: shape (rows,), int; rows with a negative one do not count.
        coldest: the lowest temperature; 1 = probabilities are made flatter or left alone.
        doubt: rows that the belief in a temperature of 1 is worth: so much times the square of the temperature's
            logarithm is added to the sum of the losses, a Gaussian prior, so that few rows cannot make a model sure of
            itself, or take all sureness from it.
    """
    targets = np.asarray(targets)
    kept = targets >= 0
    logs = np.log(np.maximum(np.asarray(probabilities, dtype=np.float64)[kept], TINY))
    chosen = logs[np.arange(len(logs)), targets[kept]]
    prior = doubt / max(1, len(logs))

    def loss(inverse: float) -> float:
        scaled = inverse * logs
        top = scaled.max(axis=1)
        mean = float(np.mean(top + np.log(np.exp(scaled - top[:, None]).sum(axis=1)) - inverse * chosen))
        return mean + prior * math.log(inverse) ** 2 if prior else mean

    low, high = 1.0 / HOTTEST, 1.0 / coldest
    known: list[float] = []
    if prior and high > math.e:  # the prior is convex up to an inverse of e only; beyond, there may be two valleys
        places = np.geomspace(low, high, PLACES)
        lowest = int(np.argmin([loss(place) for place in places]))
        known = [float(places[lowest])]
        low, high = float(places[max(lowest - 1, 0)]), float(places[min(lowest + 1, PLACES - 1)])
    while high - low > 1e-4 * high:
        left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        low, high = (low, right) if loss(left) <= loss(right) else (left, high)
    return 1.0 / min([*known, (low + high) / 2.0], key=loss)


def cautious_temperature(probabilities: Array, targets: Array) -> float:
    """``temperature_of`` for the few rows of a validation split: at least 0.5 and under a belief in 1 that is worth two
    rows (experiments/controller/LOG.md says why); within a hundredth of 1 it is 1."""
    found = temperature_of(probabilities, targets, coldest=0.5, doubt=2.0)
    return found if abs(found - 1.0) >= 0.01 else 1.0


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
