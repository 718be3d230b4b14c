"""Optimisers by name: torch's own numbers, without torch's compiler."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from raytune_rl.population.optimisers import (
    NAMES,
    OptimizerName,
    load_optimizer_state,
    make_optimizer,
    optimizer_state,
    set_momentum,
)

ADAM: dict[str, Any] = {"lr": 0.05, "weight_decay": 0.1, "betas": (0.8, 0.999), "fused": True}

TORCHS: dict[str, Callable[[nn.Module], Any]] = {
    "adam": lambda trained: torch.optim.Adam(trained.parameters(), **ADAM),
    "adamw": lambda trained: torch.optim.AdamW(trained.parameters(), **ADAM),
    "sgd": lambda trained: torch.optim.SGD(trained.parameters(), lr=0.05, weight_decay=0.1, momentum=0.8),
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def ours(kind: OptimizerName, trained: nn.Module) -> Any:
    return make_optimizer(kind, trained.parameters(), learning_rate=0.05, weight_decay=0.1, momentum=0.8)


def train(trained: nn.Module, optimizer: Any, *, steps: int, first: int = 0) -> None:
    """The settings change after two steps, and the first layer stands still for one."""
    for step in range(first, first + steps):
        inputs = torch.randn(4, 5, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        trained(inputs).square().mean().backward()
        if step == 1:
            trained[0].weight.grad = None  # type: ignore[index]
        if step == 2:
            (group,) = optimizer.param_groups
            group["lr"], group["weight_decay"] = 0.01, 0.0
            set_momentum(group, 0.5)
        optimizer.step()


def weights(trained: nn.Module) -> list[list[float]]:
    return [parameter.flatten().tolist() for parameter in trained.parameters()]


@pytest.mark.parametrize("kind", NAMES)
def test_it_moves_the_weights_as_torchs_own_does_bit_for_bit(kind: OptimizerName) -> None:
    lean, full = network(), network()
    train(lean, ours(kind, lean), steps=5)
    train(full, TORCHS[kind](full), steps=5)
    assert weights(lean) == weights(full) != weights(network())


@pytest.mark.parametrize("kind", NAMES)
def test_its_state_goes_on_in_another_one_and_in_torchs_own(kind: OptimizerName) -> None:
    straight, first = network(), network()
    train(straight, ours(kind, straight), steps=5)
    before = ours(kind, first)
    train(first, before, steps=3)
    for make in (partial(ours, kind), TORCHS[kind]):
        second = network()
        second.load_state_dict(first.state_dict())
        after = make(second)
        load_optimizer_state(after, optimizer_state(before))
        (group,) = after.param_groups
        group["lr"], group["weight_decay"] = 0.01, 0.0
        set_momentum(group, 0.5)
        train(second, after, steps=2, first=3)
        assert weights(second) == weights(straight)


def test_it_leaves_a_step_out_when_a_scaled_gradient_has_overflowed() -> None:
    for kind in NAMES:
        trained = network()
        optimizer, scaler = ours(kind, trained), torch.amp.GradScaler("cpu", init_scale=4.0)
        for factor, moves in ((1.0, True), (torch.inf, False), (1.0, True)):
            before = weights(trained)
            optimizer.zero_grad()
            scaler.scale(factor * trained(torch.ones(2, 5)).square().mean()).backward()
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
            assert (weights(trained) != before) == moves


def test_it_steps_without_torchs_compiler_which_takes_longer_to_import_than_torch() -> None:
    program = (
        "import sys, torch\n"
        "from raytune_rl.population.optimisers import make_optimizer\n"
        "weight = torch.nn.Parameter(torch.ones(3))\n"
        "optimizer = make_optimizer('adam', [weight], learning_rate=0.1, weight_decay=0.0, momentum=0.9)\n"
        "weight.square().sum().backward()\n"
        "optimizer.step()\n"
        "optimizer.load_state_dict(optimizer.state_dict())\n"
        "print(weight[0].item() < 1.0, 'torch._dynamo' in sys.modules)\n"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["True", "False"]
