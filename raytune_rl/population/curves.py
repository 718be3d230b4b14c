"""Signals computed from the loss curve of a segment, for one member or many at once."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]


def curve_signals(losses: Floats) -> dict[str, Floats]:
    """``train_loss``, ``loss_slope`` and ``loss_noise`` (see ``mdp.state.SIGNALS``), each of shape (K,), from the
    losses (steps, K) of K members. Slope and noise are NaN after a single step, or if some loss has no logarithm."""
    mean = losses.mean(axis=0)
    unknown = np.full_like(mean, np.nan)
    if len(losses) < 2:
        return {"train_loss": mean, "loss_slope": unknown, "loss_noise": unknown}
    time = np.linspace(-0.5, 0.5, len(losses))
    has_logarithm = np.all((losses > 0) & np.isfinite(losses), axis=0)
    logs = np.log(np.where(has_logarithm, losses, 1.0))
    slope = time @ logs / (time @ time)
    trend = np.exp(logs.mean(axis=0) + np.outer(time, slope))
    noise = np.std(np.where(has_logarithm, losses, 1.0) - trend, axis=0) / np.where(has_logarithm, mean, 1.0)
    return {
        "train_loss": mean,
        "loss_slope": np.where(has_logarithm, slope, unknown),
        "loss_noise": np.where(has_logarithm, noise, unknown),
    }
