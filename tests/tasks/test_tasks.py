"""All example tasks through one list: shapes, repeatability, and that their networks learn from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from torch import nn

from raytune_rl.population.candidate import MemberContext
from raytune_rl.population.torch_task import TorchTask
from raytune_rl.tasks.breast_cancer import breast_cancer, breast_cancer_network
from raytune_rl.tasks.diabetes import diabetes, diabetes_network
from raytune_rl.tasks.digits import digits, digits_network
from raytune_rl.tasks.wine import wine, wine_network

TASKS = [
    pytest.param(digits, digits_network, nn.CrossEntropyLoss(), (1079, 359, 359), 0.4, id="digits"),
    pytest.param(
        breast_cancer, breast_cancer_network, nn.BCEWithLogitsLoss(), (342, 114, 113), 0.4, id="breast_cancer"
    ),
    pytest.param(wine, wine_network, nn.CrossEntropyLoss(), (108, 35, 35), 0.3, id="wine"),
    pytest.param(diabetes, diabetes_network, nn.MSELoss(), (266, 88, 88), 0.8, id="diabetes"),
]


@pytest.mark.parametrize(("data", "network", "loss", "sizes", "reach"), TASKS)
def test_a_task_is_sound_and_learnable(
    data: Callable[..., Any],
    network: Callable[..., nn.Module],
    loss: nn.Module,
    sizes: tuple[int, ...],
    reach: float,
) -> None:
    splits = data()
    assert tuple(len(targets) for _, targets in splits) == sizes
    rows = np.concatenate([inputs for inputs, _ in splits])
    assert rows.dtype == np.float32 and np.isfinite(rows).all()
    assert np.abs(splits[0][0].mean(axis=0)).max() < 1e-3, "standardised by the train split"
    for (inputs, targets), (again, same) in zip(splits, data(), strict=True):
        assert np.array_equal(inputs, again) and np.array_equal(targets, same)
    assert not np.array_equal(data(seed=1)[0][0], splits[0][0])
    member = TorchTask(network, data, loss=loss).build(MemberContext(member=0, seed=0), {"lr": 5e-3})
    assert member.train(150).metrics["validation_loss"] < reach


@pytest.mark.parametrize("data", [digits, wine, breast_cancer])
def test_classes_are_spread_evenly(data: Callable[..., Any]) -> None:
    counts = [np.unique(np.round(targets), return_counts=True)[1] for _, targets in data()]
    shares = sum(counts) / sum(map(np.sum, counts))
    for found in counts:
        assert np.abs(found - shares * found.sum()).max() < 2, "a split is off by two rows of a class or more"


def test_no_example_is_in_two_splits() -> None:
    seen = [tuple(row) for inputs, _ in breast_cancer() for row in inputs]
    assert len(set(seen)) == len(seen)
