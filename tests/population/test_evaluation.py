from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from raytune_rl.population.evaluation import BATCH, accuracy, binary_accuracy, evaluate
from raytune_rl.population.splits import Split

CPU = torch.device("cpu")


def test_the_loss_is_that_of_all_examples_at_once() -> None:
    torch.manual_seed(0)
    split = Split(inputs=torch.randn(BATCH + 100, 4), targets=torch.randint(0, 3, (BATCH + 100,)))
    network, loss = nn.Linear(4, 3), nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.1]))
    found = evaluate(network, split, loss=loss, metrics=None, prefix="validation", device=CPU)
    with torch.no_grad():
        expected = float(loss(network(split.inputs), split.targets))
    assert found["validation_loss"] == pytest.approx(expected)
    assert set(found) == {"validation_loss", "validation_accuracy"}


def test_dropout_is_off_and_own_metrics_replace_the_default() -> None:
    split = Split(inputs=torch.ones(8, 4), targets=torch.ones(8, 4))
    network = nn.Dropout(0.9)
    found = evaluate(
        network,
        split,
        loss=nn.MSELoss(),
        metrics={"mean": lambda outputs, _: outputs.mean()},
        prefix="test",
        device=CPU,
    )
    assert found == {"test_loss": 0.0, "test_mean": 1.0}


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (lambda outputs, targets: outputs, r"The metric 'own' must return one number, not \(8, 4\) float32"),
        (lambda outputs, targets: None, "The metric 'own' must return one number, not NoneType"),
    ],
)
def test_a_metric_that_is_no_number_is_named(metric: Any, message: str) -> None:
    split = Split(inputs=torch.ones(8, 4), targets=torch.ones(8, 4))
    with pytest.raises(ValueError, match=message):
        evaluate(nn.Identity(), split, loss=nn.MSELoss(), metrics={"own": metric}, prefix="test", device=CPU)


def test_a_metric_that_cannot_work_is_one_sentence() -> None:
    split = Split(inputs=torch.ones(8, 9, 7), targets=torch.ones(8, 9, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"^The metric 'own' cannot take outputs \(8, 9, 7\) float32 and targets .*: "):
        evaluate(nn.Identity(), split, loss=last, metrics={"own": accuracy}, prefix="test", device=CPU)


def last(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """With the vocabulary last."""
    return nn.functional.cross_entropy(outputs.movedim(-1, 1), targets)


def test_accuracy_is_the_default_only_where_the_classes_are_dimension_one() -> None:
    split = Split(inputs=torch.ones(8, 9, 7), targets=torch.ones(8, 9, dtype=torch.int64))
    found = evaluate(nn.Identity(), split, loss=last, metrics=None, prefix="test", device=CPU)
    assert set(found) == {"test_loss"}
    split = Split(inputs=torch.ones(8, 7, 9), targets=torch.ones(8, 9, dtype=torch.int64))
    found = evaluate(nn.Identity(), split, loss=nn.CrossEntropyLoss(), metrics=None, prefix="test", device=CPU)
    assert set(found) == {"test_loss", "test_accuracy"}


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (nn.CrossEntropyLoss(ignore_index=0), 1.0),
        (functools.partial(F.cross_entropy, ignore_index=0), 1.0),
        (nn.CrossEntropyLoss(), 0.5),
    ],
)
def test_the_default_accuracy_leaves_out_what_the_loss_ignores(loss: Any, expected: float) -> None:
    outputs = 9.0 * F.one_hot(torch.tensor([[1, 2, 1, 2]]), 3).movedim(-1, 1).float()
    split = Split(inputs=outputs, targets=torch.tensor([[1, 2, 0, 0]]))
    found = evaluate(nn.Identity(), split, loss=loss, metrics=None, prefix="test", device=CPU)
    assert found["test_accuracy"] == expected


def test_binary_accuracy() -> None:
    assert binary_accuracy(torch.tensor([-1.0, 2.0, 3.0, -4.0]), torch.tensor([0.0, 1.0, 0.0, 0.0])) == 0.75
