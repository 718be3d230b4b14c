"""Scikit-learn's diabetes data: 442 patients, ten features, and the progression of the disease a year later.

This is the regression task."""

from __future__ import annotations

import numpy as np
from torch import nn

from raytune_rl.tasks.splitting import Split, three_way


def diabetes(*, seed: int = 0) -> tuple[Split, Split, Split]:
    """266, 88 and 88 patients as (N, 10) float32, standardised; targets (N, 1) float32, standardised over all patients
    (the split does not depend on them)."""
    from sklearn.datasets import load_diabetes

    inputs, targets = load_diabetes(return_X_y=True)
    scaled = ((targets - targets.mean()) / targets.std()).astype(np.float32)[:, None]
    return three_way(inputs, scaled, seed=seed, classes=False)


def diabetes_network(dropout: float = 0.0, width: int = 32) -> nn.Module:
    """One hidden layer with dropout: 10 features to one number, shape (N, 1)."""
    return nn.Sequential(nn.Linear(10, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 1))
