"""What the losses of a segment's steps say about it, for one member or many at once."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]


def curve_signals(losses: Floats) -> dict[str, Floats]:
    """``train_loss``, ``loss_slope`` and ``loss_noise`` of ``mdp.state.SIGNALS``, each of shape (K,), of losses (steps,
    K). Slope and noise are NaN where they mean nothing: after one step only, or where a loss has no logarithm."""
    mean = losses.mean(axis=0)
    unknown = np.full_like(mean, np.nan)
    if len(losses) < 2:
        return {"train_loss": mean, "loss_slope": unknown, "loss_noise": unknown}
    time = np.linspace(-0.5, 0.5, len(losses))
    sound = np.all((losses > 0) & np.isfinite(losses), axis=0)
    logs = np.log(np.where(sound, losses, 1.0))
    slope = time @ logs / (time @ time)
    trend = np.exp(logs.mean(axis=0) + np.outer(time, slope))
    noise = np.std(np.where(sound, losses, 1.0) - trend, axis=0) / np.where(sound, mean, 1.0)
    return {
        "train_loss": mean,
        "loss_slope": np.where(sound, slope, unknown),
        "loss_noise": np.where(sound, noise, unknown),
    }
