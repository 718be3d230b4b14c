"""Small real data sets that controllers learn from; each world draws rows and columns of its own.

What each real data set is used for:

================  ==========================================================================================
meta-training     iris (measurements), photographs (patches of scikit-learn's two sample images); where
                  ``Recipe.tables`` says so, other draws of ``tables.TRAIN``
choices           all of ``tables.TRAIN``; ``tables.VALIDATION`` only to check each choice once
evaluation, seen  digits, breast cancer, wine, mnist1d, two of ``make_classification`` (``real.SEEN``)
evaluation        all of ``real.FRESH``
================  ==========================================================================================

``META_VALIDATION`` has generated tasks only (until 2026-11-28 four of its 64 worlds were other draws of iris or
photographs). No data of digits or MNIST is in meta-training.
"""

from __future__ import annotations

import functools

import numpy as np

PATCH = 8
"""Width and height of a patch, in pixels."""
PHOTOGRAPH_ROWS = 1600

Table = tuple[np.ndarray, np.ndarray]


@functools.lru_cache(maxsize=1)
def iris() -> Table:
    """150 flowers of 3 kinds, 4 measurements of each."""
    from sklearn.datasets import load_iris

    inputs, targets = load_iris(return_X_y=True)
    return np.asarray(inputs), np.asarray(targets, dtype=np.int64)


@functools.lru_cache(maxsize=1)
def photographs() -> Table:
    """Grey patches (N, 64) of two photographs. There are 8 classes: the four quarters of each photograph."""
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0xF070)
    inputs, targets = [], []
    for which, image in enumerate(load_sample_images().images):
        grey = np.asarray(image, dtype=np.float64).mean(axis=2) / 255.0
        height, width = grey.shape[0] // 2, grey.shape[1] // 2
        for quarter in range(4):
            part = grey[(quarter // 2) * height :, (quarter % 2) * width :][:height, :width]
            for _ in range(PHOTOGRAPH_ROWS // 8):
                top, left = rng.integers(height - PATCH), rng.integers(width - PATCH)
                inputs.append(part[top : top + PATCH, left : left + PATCH].ravel())
                targets.append(which * 4 + quarter)
    return np.stack(inputs), np.asarray(targets, dtype=np.int64)
