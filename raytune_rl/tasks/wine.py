"""Scikit-learn's wine data: 178 wines of three growers, 13 measurements. The smallest task; its validation is noisy."""

from __future__ import annotations

from torch import nn

from raytune_rl.tasks.splitting import Split, three_way


def wine(*, seed: int = 0) -> tuple[Split, Split, Split]:
    """108, 35 and 35 wines as (N, 13) float32, standardised; classes 0..2."""
    from sklearn.datasets import load_wine

    inputs, targets = load_wine(return_X_y=True)
    return three_way(inputs, targets, seed=seed)


def wine_network(dropout: float = 0.0, width: int = 32) -> nn.Module:
    """One hidden layer with dropout: 13 measurements to 3 class scores."""
    return nn.Sequential(nn.Linear(13, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 3))
