"""Splits a table into train, validation and test, in the same way for every example task."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, Any]
Split: TypeAlias = tuple[Array, Array]


def three_way(inputs: Array, targets: Array, *, seed: int, classes: bool = True) -> tuple[Split, Split, Split]:
    """Split a table into 60 % train, 20 % validation and 20 % test, in a random order that depends on ``seed``.

    Args:
        inputs: (N, F); returned as float32, standardised by mean and deviation of the train part (constant columns
            become 0).
        targets: (N, ...).
        classes: whether the targets are classes, (N,). Then each class has about the same share in each part.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(targets))
    if classes:
        # sorting by class and dealing out the rows in turn keeps the classes' shares
        order = order[np.argsort(targets[order], kind="stable")]
    turn = np.arange(len(order)) % 5
    parts = [rng.permutation(order[turn < 3]), rng.permutation(order[turn == 3]), rng.permutation(order[turn == 4])]
    mean, deviation = inputs[parts[0]].mean(axis=0), inputs[parts[0]].std(axis=0)
    scaled = ((inputs - mean) / np.where(deviation > 0, deviation, 1.0)).astype(np.float32)
    train, validation, test = ((scaled[part], targets[part]) for part in parts)
    return train, validation, test
