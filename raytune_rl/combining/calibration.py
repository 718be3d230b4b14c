"""Whether probabilities mean what they say: temperature scaling, expected calibration error, Brier score."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from raytune_rl.combining.losses import Array, Floats

TINY = 1e-12
COLDEST, HOTTEST = 0.5, 20.0
GRID = 24
"""Temperatures that are tried before the best one is searched between its neighbours."""
DOUBT, SURPRISES, KNOWN = 2.0, 0.1, 5.0
"""Rows that the belief in a temperature of 1 is worth; believed rows that take a model by surprise, and that do not
(experiments/controller/LOG.md: "Calibration")."""
NEAR, FAINT = 0.01, 1e-4
"""A temperature that is nearer than this to 1 is 1, and a lower uniform share is none."""
GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True, slots=True)
class Calibration:
    """How a model's probabilities are made to mean what they say: ensemble temperature scaling (Zhang et al. 2020,
    section 3.2) without its middle term.

    Attributes:
        temperature: ``p ** (1 / temperature)``, normalised (Guo et al. 2017, section 4.2): above 1 flatter, below
            sharper.
        uniform: the share of the uniform distribution that is then mixed in, in [0, 1): how often the model is taken
            by surprise. It bounds the price of a confident mistake, which a temperature does not.
    """

    temperature: float = 1.0
    uniform: float = 0.0

    def in_words(self) -> str:
        """For people; empty where nothing is changed."""
        heat = "" if self.temperature == 1.0 else f"a temperature of {self.temperature:.2f}"
        mixed = "" if self.uniform == 0.0 else f"{100 * self.uniform:.2g} % of the uniform distribution"
        return " and ".join(part for part in (heat, mixed) if part)

    def told(self) -> dict[str, float]:
        """As files hold it."""
        return asdict(self)

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Calibration:
        """From what a file says, where what it leaves out changes nothing. Raises ``ValueError``."""
        temperature, uniform = told.get("temperature", 1.0), told.get("uniform", 0.0)
        if not _is_number(temperature) or not 0 < temperature < math.inf:
            raise ValueError(f"temperature is {temperature!r}; it must be a positive number.")
        if not _is_number(uniform) or not 0 <= uniform < 1:
            raise ValueError(f"uniform is {uniform!r}; it must be a share, at least 0 and below 1.")
        return cls(float(temperature), float(uniform))


def calibration_of(probabilities: Array, targets: Array) -> Calibration:
    """The temperature, in [0.5, 20], and the uniform share with the lowest log loss, for the few rows of a validation
    split.

    Two beliefs are added to the sum of the losses, so that few rows cannot make a model sure of itself, or take all
    sureness from it: ``DOUBT`` times the square of the temperature's logarithm, a Gaussian prior; and a Beta prior of
    ``SURPRISES`` rows of which the model knew nothing beside ``KNOWN`` others, so that a model that is right on each of
    ``n`` rows still expects to be wrong about once in ``n / SURPRISES``. An ensemble is calibrated as one, after
    averaging (Rahaman and Thiery 2021, section 4).

    Args:
        probabilities: shape (rows, classes).
        targets: shape (rows,), int; rows with a negative one do not count. Where none does nothing is changed.
    """
    targets = np.asarray(targets)
    kept = targets >= 0
    if not kept.any():
        return Calibration()
    logs = np.log(np.maximum(np.asarray(probabilities, dtype=np.float64)[kept], TINY))
    chosen = logs[np.arange(len(logs)), targets[kept]]

    def judged(inverse: float) -> tuple[float, float]:
        """The loss at its best uniform share, and that share."""
        scaled = inverse * logs
        top = scaled.max(axis=1)
        right = np.exp(inverse * chosen - top) / np.exp(scaled - top[:, None]).sum(axis=1)
        share = _uniform_share(right, 1.0 / logs.shape[1])
        likelihood = float(np.log((1.0 - share) * right + share / logs.shape[1]).sum())
        belief = SURPRISES * math.log(share) + KNOWN * math.log1p(-share) - DOUBT * math.log(inverse) ** 2
        return -likelihood - belief, share

    # Not convex once there is a uniform share: the best of a grid, then between its neighbours.
    grid = np.geomspace(1.0 / HOTTEST, 1.0 / COLDEST, GRID)
    best = int(np.argmin([judged(float(inverse))[0] for inverse in grid]))
    low, high = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, GRID - 1)])
    while high - low > 1e-3 * high:
        left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        low, high = (low, right) if judged(left)[0] <= judged(right)[0] else (left, high)
    temperature = 2.0 / (low + high)
    temperature = temperature if abs(temperature - 1.0) >= NEAR else 1.0
    uniform = judged(1.0 / temperature)[1]
    return Calibration(temperature, uniform if uniform >= FAINT else 0.0)


def cost_of_doubt(rows: int) -> float:
    """By how much ``calibration_of`` so many rows can raise their log loss at most, to be surer of others."""
    share = SURPRISES / (rows + KNOWN + SURPRISES)
    return -((rows + KNOWN) * math.log1p(-share) + SURPRISES * math.log(share)) / rows if rows else 0.0


def _uniform_share(right: Floats, uniform: float) -> float:
    """The share in (0, 1) with the best likelihood where the model gives the right answers ``right`` (rows,) and
    ``uniform`` is one in so many classes; with the Beta prior. Concave, so its slope is halved."""
    low, high = -30.0, -1e-9  # of its logarithm
    gain = uniform - right
    while high - low > 1e-3:
        middle = (low + high) / 2
        share = math.exp(middle)
        slope = float((gain / (right + share * gain)).sum()) + SURPRISES / share - KNOWN / (1.0 - share)
        low, high = (middle, high) if slope > 0 else (low, middle)
    return math.exp((low + high) / 2)


def _is_number(found: object) -> bool:
    return isinstance(found, int | float) and not isinstance(found, bool)


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
