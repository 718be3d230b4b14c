"""Scikit-learn's breast cancer data (Wisconsin): 569 tumours, benign or malignant, with ten mean features of their
cells."""

from __future__ import annotations

import numpy as np
from torch import nn

from raytune_rl.tasks.splitting import Split, three_way

FEATURES = 10
"""Features that are used. The data set has the mean, error and worst value of ten measurements; the means come
first."""


def breast_cancer(*, seed: int = 0) -> tuple[Split, Split, Split]:
    """342, 114 and 113 tumours as (N, 10) float32, standardised; targets (N, 1) float32, 1 = benign."""
    from sklearn.datasets import load_breast_cancer

    inputs, targets = load_breast_cancer(return_X_y=True)
    train, validation, test = three_way(inputs[:, :FEATURES], targets, seed=seed)
    return _column(train), _column(validation), _column(test)


def breast_cancer_network(hidden: int = 128) -> nn.Module:
    """Two layers: 10 features to the logit of "benign", shape (N, 1)."""
    return nn.Sequential(nn.Linear(FEATURES, hidden), nn.ReLU(), nn.Linear(hidden, 1))


def _column(split: Split) -> Split:
    inputs, targets = split
    return inputs, targets.astype(np.float32)[:, None]
