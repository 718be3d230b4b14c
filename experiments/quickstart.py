"""Handwritten digits: an agent steers eight small networks through training, about half a minute on two cores.

Run it: ``python -m raytune_rl.run experiments/quickstart.py``

The ranges are wide on purpose. Most random configurations in them learn badly, which the comparison at the end shows:
the same networks and the same number of steps, spent on random search.
"""

from ray import tune
from torch import nn

from raytune_rl import Experiment, TorchTask, roles
from raytune_rl.tasks.digits import digits


def network(dropout: float) -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, 64),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(64, 64),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(64, 10),
    )


experiment = Experiment(
    candidate=TorchTask(network, digits, loss=nn.CrossEntropyLoss()),
    hyperparameters={
        "lr": roles.learning_rate(tune.loguniform(1e-5, 1.0)),
        "weight_decay": roles.weight_decay(tune.loguniform(1e-6, 0.1)),
        "dropout": roles.dropout(tune.uniform(0.0, 0.6)),
        "label_smoothing": roles.label_smoothing(tune.uniform(0.0, 0.3)),
    },
    metric="validation_loss",
    mode="min",
    population=8,
    segments=20,
    segment_length=50,
    compare="random",
)
