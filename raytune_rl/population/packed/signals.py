"""What a segment of training looked like, for all members: the definitions of ``torch_member.py`` over a table."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

Floats = npt.NDArray[np.float64]


def curve_signals(losses: Floats) -> dict[str, Floats]:
    """``train_loss``, ``loss_slope``, ``loss_noise`` of each member, shape (K,), from losses of shape (length, K).

    Slope and noise are NaN where a loss is not positive or not finite, and where the segment is a single step.
    """
    length, members = losses.shape
    with np.errstate(all="ignore"):
        mean = losses.mean(0)
        if length < 2:
            nothing = np.full(members, np.nan)
            return {"train_loss": mean, "loss_slope": nothing, "loss_noise": nothing}
        sound = np.all((losses > 0) & np.isfinite(losses), axis=0)
        time = np.linspace(-0.5, 0.5, length)
        logs = np.log(losses)
        slope = time @ logs / (time @ time)
        trend = np.exp(logs.mean(0) + slope * time[:, None])
        noise = np.std(losses - trend, axis=0) / mean
    return {
        "train_loss": mean,
        "loss_slope": np.where(sound, slope, np.nan),
        "loss_noise": np.where(sound, noise, np.nan),
    }


def row_norms(table: torch.Tensor) -> torch.Tensor:
    """L2 norm of each row."""
    norms: torch.Tensor = torch.linalg.vector_norm(table, dim=1)
    return norms


def relative_change(after: torch.Tensor, before: torch.Tensor, trains: torch.Tensor | None) -> torch.Tensor:
    """Norm of each row's change / its norm before, over what trains; ``before`` is used up."""
    if trains is None:
        norms = row_norms(before)
        return row_norms(before.sub_(after)) / (norms + 1e-12)
    norms = row_norms(before * trains)
    return row_norms(before.sub_(after)) / (norms + 1e-12)
