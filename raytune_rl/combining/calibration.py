"""Calibration of probabilities: temperature scaling, expected calibration error and Brier score."""

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
"""Number of temperatures that are tried first; the search then continues between the neighbours of the best one."""
DOUBT, SURPRISES, KNOWN = 2.0, 0.1, 5.0
"""Priors of ``calibration_of``, in rows: the weight of the prior for a temperature of 1, the imagined rows about which
the model knows nothing, and the other imagined rows (experiments/controller/LOG.md: "Calibration")."""
NEAR, FAINT = 0.01, 1e-4
"""A temperature that is closer to 1 than ``NEAR`` counts as 1, and a uniform share below ``FAINT`` as 0."""
GOLDEN = (5**0.5 - 1) / 2
"""The golden ratio's inverse, for the golden-section search."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """How a model's probabilities are calibrated: ensemble temperature scaling (Zhang et al. 2020, section 3.2) without
    its middle term.

    Attributes:
        temperature: ``p ** (1 / temperature)``, normalised (Guo et al. 2017, section 4.2): above 1 flatter, below
            sharper.
        uniform: the share of the uniform distribution that is then mixed in, in [0, 1): how often the model knows
            nothing about a row. It limits the loss of a confident mistake, which a temperature does not.
    """

    temperature: float = 1.0
    uniform: float = 0.0

    def in_words(self) -> str:
        """A description for people; empty if nothing is changed."""
        heat = "" if self.temperature == 1.0 else f"a temperature of {self.temperature:.2f}"
        mixed = "" if self.uniform == 0.0 else f"{100 * self.uniform:.2g} % of the uniform distribution"
        return " and ".join(part for part in (heat, mixed) if part)

    def told(self) -> dict[str, float]:
        """As a dictionary, for files."""
        return asdict(self)

    @classmethod
    def read(cls, saved: Mapping[str, Any]) -> Calibration:
        """The inverse of ``told``; keys that are missing change nothing. Raises ``ValueError`` for invalid numbers."""
        temperature, uniform = saved.get("temperature", 1.0), saved.get("uniform", 0.0)
        if not _is_number(temperature) or not 0 < temperature < math.inf:
            raise ValueError(f"temperature is {temperature!r}; it must be a positive number.")
        if not _is_number(uniform) or not 0 <= uniform < 1:
            raise ValueError(f"uniform is {uniform!r}; it must be a share, at least 0 and below 1.")
        return cls(float(temperature), float(uniform))


def calibration_of(probabilities: Array, targets: Array) -> Calibration:
    """The temperature, in [0.5, 20], and the uniform share with the lowest log loss on the rows of a validation split,
    which may be few.

    Two priors are added to the sum of the losses, so that a few rows can make a model neither too confident nor too
    doubtful. For the temperature it is a Gaussian prior: ``DOUBT`` times the square of its logarithm. For the uniform
    share it is a Beta prior of ``SURPRISES`` rows about which the model knew nothing and ``KNOWN`` others. So a model
    that is right on all of ``n`` rows still expects to be wrong about once in ``n / SURPRISES`` rows. An ensemble is
    calibrated as a whole, after averaging (Rahaman and Thiery 2021, section 4).

    Args:
        probabilities: shape (rows, classes).
        targets: shape (rows,), int. Rows with a negative target do not count; if none counts, nothing is changed.
    """
    targets = np.asarray(targets)
    kept = targets >= 0
    if not kept.any():
        return Calibration()
    logs = np.log(np.maximum(np.asarray(probabilities, dtype=np.float64)[kept], TINY))
    chosen = logs[np.arange(len(logs)), targets[kept]]

    def loss_and_share(inverse: float) -> tuple[float, float]:
        """The lowest loss at the temperature ``1 / inverse``, and the uniform share that gives it."""
        scaled = inverse * logs
        top = scaled.max(axis=1)
        right = np.exp(inverse * chosen - top) / np.exp(scaled - top[:, None]).sum(axis=1)
        share = _uniform_share(right, 1.0 / logs.shape[1])
        likelihood = float(np.log((1.0 - share) * right + share / logs.shape[1]).sum())
        log_prior = SURPRISES * math.log(share) + KNOWN * math.log1p(-share) - DOUBT * math.log(inverse) ** 2
        return -likelihood - log_prior, share

    # With a uniform share the loss is not convex, so try a grid, then search between the neighbours of its best point.
    grid = np.geomspace(1.0 / HOTTEST, 1.0 / COLDEST, GRID)
    best = int(np.argmin([loss_and_share(float(inverse))[0] for inverse in grid]))
    low, high = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, GRID - 1)])
    while high - low > 1e-3 * high:
        left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        low, high = (low, right) if loss_and_share(left)[0] <= loss_and_share(right)[0] else (left, high)
    temperature = 2.0 / (low + high)
    temperature = temperature if abs(temperature - 1.0) >= NEAR else 1.0
    uniform = loss_and_share(1.0 / temperature)[1]
    return Calibration(temperature, uniform if uniform >= FAINT else 0.0)


def cost_of_doubt(rows: int) -> float:
    """By how much ``calibration_of`` can at most raise the log loss of the ``rows`` rows that it is applied to: the
    price of its priors, which make it safer on other rows."""
    share = SURPRISES / (rows + KNOWN + SURPRISES)
    return -((rows + KNOWN) * math.log1p(-share) + SURPRISES * math.log(share)) / rows if rows else 0.0


def _uniform_share(right: Floats, uniform: float) -> float:
    """The share in (0, 1) of the uniform distribution that has the best likelihood, including the Beta prior. The
    likelihood is concave, so the zero of its slope is found by bisection.

    Args:
        right: the model's probabilities of the right answers, (rows,).
        uniform: probability of each class in the uniform distribution.
    """
    low, high = -30.0, -1e-9  # bounds of the share's logarithm
    gain = uniform - right
    while high - low > 1e-3:
        middle = (low + high) / 2
        share = math.exp(middle)
        slope = float((gain / (right + share * gain)).sum()) + SURPRISES / share - KNOWN / (1.0 - share)
        low, high = (middle, high) if slope > 0 else (low, middle)
    return math.exp((low + high) / 2)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def expected_calibration_error(probabilities: Array, targets: Array, *, bins: int = 15) -> float:
    """ECE (Guo et al. 2017, equation 3): the difference between confidence and accuracy in ``bins`` bins of equal
    width, averaged with their numbers of rows as weights; in [0, 1].

    Args:
        probabilities: shape (rows, classes).
        targets: shape (rows,), int.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == np.asarray(targets)
    bin_of_row = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(bin_of_row, weights=confidence - right, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def brier_score(probabilities: Array, targets: Array) -> float:
    """The squared distance to the right answer, summed over the classes and averaged over the rows (Brier 1950); in
    [0, 2]. Shapes as for ``expected_calibration_error``."""
    errors = np.array(probabilities, dtype=np.float64)
    errors[np.arange(len(errors)), np.asarray(targets)] -= 1.0
    return float(np.mean((errors * errors).sum(axis=1)))
