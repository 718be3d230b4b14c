"""Two layers tell benign tumours from malignant ones: the smallest experiment.

Run it: ``python -m raytune_rl.run experiments/binary_classification.py``
"""

from ray import tune
from torch import nn

from raytune_rl import Experiment, TorchTask, roles
from raytune_rl.tasks.breast_cancer import breast_cancer


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(10, 128), nn.ReLU(), nn.Linear(128, 1))


experiment = Experiment(
    candidate=TorchTask(network, breast_cancer, loss=nn.BCEWithLogitsLoss(), optimizer="adam"),
    hyperparameters={"lr": roles.learning_rate(tune.loguniform(1e-5, 1.0))},
    metric="validation_loss",
    mode="min",
    segment_length=20,
)
