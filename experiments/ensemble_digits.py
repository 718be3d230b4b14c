"""Handwritten digits: eight steered networks, their ensemble, and a deep ensemble beside it, 18 s on two cores.

Run it: ``python -m raytune_rl.run experiments/ensemble_digits.py``

The deep ensemble is what one would do by hand: the same network eight times with a good default under a cosine, the
same number of steps, its members combined by the same rule.
"""

from ray import tune
from torch import nn

from raytune_rl import Ensemble, Experiment, TorchTask, roles
from raytune_rl.tasks.digits import digits, digits_network

experiment = Experiment(
    candidate=TorchTask(digits_network, digits, loss=nn.CrossEntropyLoss()),
    hyperparameters={
        "lr": roles.learning_rate(tune.loguniform(1e-4, 1e-1)),
        "weight_decay": roles.weight_decay(tune.loguniform(1e-6, 0.1)),
        "dropout": roles.dropout(tune.uniform(0.0, 0.6)),
        "label_smoothing": roles.label_smoothing(tune.uniform(0.0, 0.3)),
    },
    metric="validation_loss",
    mode="min",
    population=8,
    segments=20,
    segment_length=50,
    objective="ensemble",
    ensemble=Ensemble(size=8),
    compare="deep-ensemble",
)
