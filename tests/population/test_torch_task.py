from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from ray import cloudpickle
from torch import nn

from raytune_rl.population import augmentations
from raytune_rl.population.candidate import Candidate, MemberContext
from raytune_rl.population.torch_task import TorchTask
from raytune_rl.tasks.breast_cancer import breast_cancer, breast_cancer_network
from tests.population.models import START, TASK, blobs, build, mlp


def no_dropout() -> nn.Module:
    return nn.Linear(2, 3)


class Two(nn.Module):
    """Returns a pair."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.layer(inputs), inputs


def needs(depth: int, width: int = 3) -> nn.Module:
    return nn.Linear(2, width)


def test_it_is_a_candidate() -> None:
    assert isinstance(TASK, Candidate)
    TASK.check(START)


def test_importing_it_is_light() -> None:
    code = "import sys, raytune_rl.population.torch_task; sys.exit('torch' in sys.modules or 'ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("task", "values", "message"),
    [
        (TASK, {"colour": 1}, r"'colour' reaches nothing: .* mlp\(\) \(dropout, width\) .* label_smoothing"),
        (TorchTask(mlp, blobs, loss=nn.MSELoss()), {"label_smoothing": 0.1}, "'label_smoothing' reaches nothing"),
        (TorchTask(no_dropout, blobs, loss=nn.CrossEntropyLoss()), {"dropout": 0.1}, "has no dropout layer"),
        (TorchTask(needs, blobs, loss=nn.CrossEntropyLoss()), {"lr": 0.1}, r"needs\(\) needs the argument 'depth'"),
        (TASK, {"augmentation": 0.1}, "'augmentation' is the strength of an augmentation, and the task has"),
        (
            dataclasses.replace(TASK, augment=augmentations.noise),
            {"lr": 0.1},
            r"augment=noise\(\)\) would never be called: no hyperparameter is its strength",
        ),
        (
            TorchTask(lambda: 3, blobs, loss=nn.CrossEntropyLoss()),
            {"dropout": 0.1},
            "must return a torch.nn.Module, not int",
        ),
    ],
)
def test_check_says_what_cannot_work(task: TorchTask, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task.check(values)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"network": nn.Linear(2, 3)}, "not a network itself"),
        ({"network": 3}, "network must be a function, not int"),
        ({"loss": nn.CrossEntropyLoss}, r"CrossEntropyLoss\(\)"),
        ({"optimizer": "adagrad"}, "'adam', 'adamw', 'sgd' or a function, not 'adagrad'"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"metrics": {"f1": 3}}, "'f1' must be a function"),
        ({"metrics": {"loss": len}}, "a metric cannot be named 'loss'"),
        ({"augment": 0.1}, r"augment must be a function of \(inputs, strength, generator\), not float"),
        ({"augment": lambda inputs: inputs}, r"which <lambda>\(\) is not: too many positional arguments"),
        ({"augmentation": 0.1}, "augmentation is 0.1, the strength of an augment; give one"),
        ({"augment": augmentations.noise, "augmentation": -0.1}, "must be a number of at least 0, not -0.1"),
    ],
)
def test_a_wrong_task_is_refused_when_it_is_made(arguments: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"network": mlp, "data": blobs, "loss": nn.CrossEntropyLoss()} | arguments
    with pytest.raises(ValueError, match=message):
        TorchTask(**given)


def test_start_only_names_what_cannot_change_in_flight() -> None:
    assert TASK.start_only({"lr": 0.1, "width": 8, "init": "xavier", "dropout": 0.1}) == {"width", "init"}


def test_a_loss_that_does_not_fit_the_data_is_explained() -> None:
    def column() -> Any:
        return tuple((split[0], split[1].astype(float)) for split in blobs())

    def one() -> nn.Module:
        return nn.Linear(2, 1)

    with pytest.raises(ValueError, match=r"MSELoss needs outputs in the shape of the targets, not \(2, 1\) float32"):
        build(TorchTask(one, column, loss=nn.MSELoss()), {"lr": 0.1})
    with pytest.raises(ValueError, match=r"The loss cannot take outputs \(2, 1\) float32"):
        build(TorchTask(one, column, loss=nn.BCEWithLogitsLoss()), {"lr": 0.1})
    with pytest.raises(ValueError, match=r"The network cannot take inputs \(2, 2\) float32"):
        build(TorchTask(lambda: nn.Linear(5, 3), blobs, loss=nn.CrossEntropyLoss()), {"lr": 0.1})
    with pytest.raises(ValueError, match="The network must return one tensor, not a tuple"):
        build(TorchTask(Two, blobs, loss=nn.MSELoss()), {"lr": 0.1})
    with pytest.raises(ValueError, match="must return one number"):
        build(TorchTask(mlp, blobs, loss=nn.CrossEntropyLoss(reduction="none")), {"lr": 0.1})


def test_binary_classification_learns() -> None:
    task = TorchTask(breast_cancer_network, breast_cancer, loss=nn.BCEWithLogitsLoss())
    member = build(task, {"lr": 1e-2})
    result = member.train(100)
    assert result.metrics["validation_accuracy"] > 0.85
    test = task.test(member.get_state())
    assert set(test) == {"test_loss", "test_accuracy"}
    assert test["test_accuracy"] > 0.85


def test_test_metrics_come_from_the_test_split_and_draw_no_random_numbers() -> None:
    member = build()
    member.train(50)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    state = member.get_state()
    found = TASK.test(state)
    assert torch.equal(before, torch.get_rng_state())
    inputs, targets = blobs()[2]
    network = member.controls.network.eval()
    with torch.no_grad():
        outputs = network(torch.tensor(inputs, dtype=torch.float32))
    assert found["test_accuracy"] == pytest.approx(np.mean(outputs.argmax(1).numpy() == targets))
    assert found["test_loss"] == pytest.approx(float(nn.functional.cross_entropy(outputs, torch.tensor(targets))))


def test_without_a_test_split_there_are_no_test_metrics() -> None:
    def data() -> Any:
        return (*blobs()[:2], None)

    member = build(data=data)
    assert TorchTask(mlp, data, loss=nn.CrossEntropyLoss()).test(member.get_state()) == {}


def test_local_functions_travel_by_cloudpickle() -> None:
    def network(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(2, width), nn.Linear(width, 3))

    task = TorchTask(network, lambda: blobs(), loss=nn.CrossEntropyLoss())
    values = {"lr": 0.1, "width": 4}
    copied = cloudpickle.loads(cloudpickle.dumps(task))
    context = MemberContext(member=0, seed=3)
    assert copied.build(context, values).train(3) == task.build(context, values).train(3)


def test_data_is_loaded_once_for_all_members() -> None:
    calls = []

    def data() -> Any:
        calls.append(1)
        return blobs()

    task = TorchTask(mlp, data, loss=nn.CrossEntropyLoss())
    for index in range(3):
        task.build(MemberContext(member=index, seed=index), {"lr": 0.1})
    assert len(calls) == 1
