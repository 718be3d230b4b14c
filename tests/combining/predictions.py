"""Predictions of made-up members: they know something each, and err in different places."""

from __future__ import annotations

import numpy as np

from raytune_rl.combining.calibration import Calibration
from raytune_rl.combining.losses import Kind


def made_up(kind: Kind, *, members: int = 6, rows: int = 120, outputs: int = 4, seed: int = 0):
    """(predictions, targets); later members are worse."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(members, rows, outputs)) * np.linspace(0.6, 2.0, members)[:, None, None]
    if kind == "regression":
        targets = rng.normal(size=(rows, outputs))
        return targets + noise, targets
    targets = rng.integers(outputs, size=rows)
    scores = 2.0 * np.eye(outputs)[targets] + noise
    if kind == "matching":
        return scores, targets
    powers = np.exp(scores)
    return powers / powers.sum(axis=2, keepdims=True), targets


def applied(calibration: Calibration, probabilities: np.ndarray) -> np.ndarray:
    """What the calibration is defined to be; ``population.calibrating`` is what carries it out."""
    powers = np.maximum(probabilities, 1e-12) ** (1.0 / calibration.temperature)
    shares = powers / powers.sum(axis=-1, keepdims=True)
    return (1.0 - calibration.uniform) * shares + calibration.uniform / shares.shape[-1]
