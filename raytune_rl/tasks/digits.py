"""Scikit-learn's handwritten digits: 1797 images of 8 x 8 pixels, 10 classes. The quickstart's task."""

from __future__ import annotations

from torch import nn

from raytune_rl.tasks.splitting import Split, three_way


def digits(*, seed: int = 0) -> tuple[Split, Split, Split]:
    """1079, 359 and 359 images as (N, 64) float32, standardised; classes 0..9."""
    from sklearn.datasets import load_digits

    inputs, targets = load_digits(return_X_y=True)
    return three_way(inputs, targets, seed=seed)


def digits_network(dropout: float = 0.0, width: int = 64) -> nn.Module:
    """Two hidden layers with dropout: 64 pixels to 10 class scores."""
    return nn.Sequential(
        nn.Linear(64, width),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(width, 10),
    )
