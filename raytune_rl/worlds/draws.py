"""Random numbers that several modules of the generator draw."""

from __future__ import annotations

import math

import numpy as np


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Uniform on a log scale, in [low, high)."""
    return math.exp(rng.uniform(math.log(low), math.log(high)))
