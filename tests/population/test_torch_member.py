from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from raytune_rl.mdp.state import SIGNALS
from raytune_rl.population.candidate import Member
from raytune_rl.population.torch_member import PROBES, TorchMember
from raytune_rl.population.torch_task import TorchTask
from tests.population.models import START, TASK, blobs, build, mlp


def weights(member: TorchMember) -> dict[str, Any]:
    network: dict[str, Any] = member.get_state()["network"]
    return network


def same(left: Any, right: Any) -> bool:
    if isinstance(left, Mapping):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    return bool(np.array_equal(left, right, equal_nan=True)) if isinstance(left, np.ndarray) else bool(left == right)


def test_it_is_a_member_and_learns() -> None:
    member = build()
    assert isinstance(member, Member)
    first = member.train(1)
    last = [member.train(20) for _ in range(5)][-1]
    assert set(last.metrics) == {"validation_loss", "validation_accuracy", "train_loss"}
    assert last.metrics["validation_loss"] < first.metrics["validation_loss"] / 2
    assert last.metrics["validation_accuracy"] > 0.9
    assert last.steps == 20 and member.steps == 101


def test_the_same_seed_gives_the_same_numbers_whatever_others_draw() -> None:
    left, right = build(), build()
    torch.manual_seed(99)
    before = torch.get_rng_state()
    one = [left.train(7) for _ in range(3)]
    assert torch.equal(before, torch.get_rng_state()), "training moved the process's own generator"
    torch.rand(13)
    assert one == [right.train(7) for _ in range(3)]
    assert same(left.get_state(), right.get_state())
    assert not same(weights(left), weights(build(seed=8)))


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_a_snapshot_goes_on_bit_for_bit(optimizer: Any) -> None:
    member = build(optimizer=optimizer)
    member.train(9)  # 9 * 32 is in the middle of an epoch
    member.apply({"lr": 3e-3, "dropout": 0.4})
    state = pickle.loads(pickle.dumps(member.get_state()))
    expected = [member.train(9) for _ in range(2)]
    fresh = build(optimizer=optimizer, seed=1234)  # a host may build it again with another seed
    fresh.set_state(state)
    assert same(fresh.get_state(), state)
    assert [fresh.train(9) for _ in range(2)] == expected
    assert same(fresh.get_state(), member.get_state())


def test_a_snapshot_shares_no_memory_and_may_be_read_only() -> None:
    member = build()
    member.train(5)
    state = member.get_state()
    copied = pickle.loads(pickle.dumps(state))
    member.train(5)
    assert same(state, copied)
    for array in state["network"].values():
        array.flags.writeable = False
    member.set_state(state)
    member.train(5)
    assert same(state["network"], copied["network"])


def test_a_copy_takes_the_weights_but_neither_batches_nor_step_count() -> None:
    donor, receiver = build(member=0, seed=1), build(member=1, seed=2)
    donor.train(10)
    receiver.train(4)
    receiver.set_state(donor.get_state())
    assert same(weights(receiver), weights(donor))
    assert same(receiver.get_state()["optimizer"], donor.get_state()["optimizer"])
    assert receiver.train(6).steps == 6 and receiver.steps == 10
    donor.train(6)
    assert not same(weights(receiver), weights(donor)), "the receiver repeated its donor's batches"


def test_a_copy_of_another_architecture_brings_it_along() -> None:
    donor = build(values={"lr": 1e-2, "width": 24})
    receiver = build(values={"lr": 1e-2, "width": 8}, member=1)
    donor.train(3)
    receiver.set_state(donor.get_state())
    assert receiver.apply({"lr": 1e-3, "width": 8}) == {"lr": 1e-3, "width": 24}
    assert same(weights(receiver), weights(donor))
    receiver.train(3)


def test_apply_answers_what_is_in_force() -> None:
    member = build(values=START | {"momentum": 0.8, "grad_clip": 1.0, "frozen_layers": 0, "width": 16})
    answer = member.apply({"lr": 0.5, "momentum": 0.5, "batch_size": 10_000, "frozen_layers": 99, "width": 4})
    expected = START | {
        "lr": 0.5,
        "momentum": 0.5,
        "batch_size": 120,
        "grad_clip": 1.0,
        "frozen_layers": 2,
        "width": 16,
    }
    assert answer == expected
    with pytest.raises(ValueError, match="'colour' was not among"):
        member.apply({"colour": 1})


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_the_learning_rate_is_really_used(optimizer: Any) -> None:
    moves = []
    for rate in (1e-4, 1e-3):
        member = build(values={"lr": 1.0}, optimizer=optimizer)
        before = weights(member)["0.weight"]
        member.apply({"lr": rate})
        member.train(1)
        moves.append(np.abs(weights(member)["0.weight"] - before).max())
    assert moves[1] / moves[0] == pytest.approx(10, rel=0.01)


def test_a_learning_rate_of_zero_stands_still() -> None:
    member = build(values={"lr": 0.0}, optimizer="sgd")
    before = weights(member)["0.weight"]
    assert member.train(3).signals["update_norm"] == 0
    assert same(weights(member)["0.weight"], before)


def test_weight_decay_is_really_used() -> None:
    def norm(decay: float) -> float:
        member = build(values={"weight_decay": 0.0}, optimizer="adamw", learning_rate=0.01)
        member.apply({"weight_decay": decay})
        member.train(50)
        return float(np.linalg.norm(weights(member)["4.weight"]))

    assert norm(5.0) < 0.5 * norm(0.0)


def test_momentum_is_really_used() -> None:
    def moved(momentum: float) -> float:
        member = build(values={"momentum": 0.0}, optimizer="sgd")
        before = weights(member)["0.weight"]
        member.apply({"momentum": momentum})
        member.train(20)
        return float(np.linalg.norm(weights(member)["0.weight"] - before))

    assert moved(0.9) > 2 * moved(0.0)


def test_clipping_bounds_a_step() -> None:
    member = build(values={"grad_clip": 0.0}, optimizer="sgd", learning_rate=1.0, momentum=0.0)
    member.apply({"grad_clip": 1e-3})
    before = weights(member)
    signals = member.train(1).signals
    after = weights(member)
    moved = np.sqrt(
        sum(np.sum((after[key] - before[key]) ** 2) for key in after if "running" not in key and "num" not in key)
    )
    assert moved == pytest.approx(1e-3, rel=1e-3)
    assert signals["grad_norm"] > 1e-2, "the signal is the norm before clipping"


def test_dropout_reaches_the_layer_even_from_zero() -> None:
    def network(dropout: float) -> nn.Module:
        parts = [nn.Linear(2, 8), nn.Dropout(0.125), *([nn.Dropout(dropout)] if dropout > 0 else []), nn.Linear(8, 3)]
        return nn.Sequential(*parts)

    member = build(TorchTask(network, blobs, loss=nn.CrossEntropyLoss()), {"dropout": 0.0})
    layers = [module for module in member.controls.network.modules() if isinstance(module, nn.Dropout)]
    assert [layer.p for layer in layers] == [0.125, 0.0]
    assert member.apply({"dropout": 0.6}) == {"dropout": 0.6}
    assert [layer.p for layer in layers] == [0.125, 0.6], "only the layer that follows the argument moves"


def test_batch_size_is_really_used() -> None:
    sizes: list[int] = []

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            sizes.append(len(targets))
        return nn.functional.cross_entropy(outputs, targets)

    member = build(values={"batch_size": 50}, loss=loss)
    member.train(3)
    member.apply({"batch_size": 17})
    member.train(2)
    assert sizes == [50, 50, 50, 17, 17]


def test_label_smoothing_changes_training_but_not_validation() -> None:
    member = build(values={"label_smoothing": 0.0, "lr": 0.0}, optimizer="sgd", batch_size=120)
    plain = member.train(1).metrics
    assert member.apply({"label_smoothing": 0.3, "lr": 0.0})["label_smoothing"] == 0.3
    smooth = member.train(1).metrics
    assert smooth["train_loss"] > plain["train_loss"] * 1.01 or smooth["train_loss"] < plain["train_loss"] * 0.99
    other = build(values={"label_smoothing": 0.3, "lr": 0.0}, optimizer="sgd", batch_size=120)
    assert other.train(1).metrics["validation_loss"] == plain["validation_loss"]
    assert isinstance(TASK.loss, nn.CrossEntropyLoss) and TASK.loss.label_smoothing == 0.0


def test_settings_of_a_loss_function_are_live() -> None:
    def loss(outputs: torch.Tensor, targets: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return scale * nn.functional.cross_entropy(outputs, targets)

    member = build(values={"scale": 1.0}, loss=loss, learning_rate=0.0, optimizer="sgd", batch_size=120)
    plain = member.train(1).metrics
    assert member.apply({"scale": 3.0}) == {"scale": 3.0}
    scaled = member.train(1).metrics
    assert scaled["train_loss"] == pytest.approx(3 * plain["train_loss"], rel=1e-4)
    member = build(values={"scale": 3.0}, loss=loss, learning_rate=0.0, optimizer="sgd", batch_size=120)
    assert member.train(1).metrics["validation_loss"] == plain["validation_loss"]


def test_frozen_layers_stand_still_with_their_statistics() -> None:
    member = build(values={"frozen_layers": 0})
    member.train(3)
    member.apply({"frozen_layers": 2})
    before = weights(member)
    member.train(5)
    after = weights(member)
    assert all(same(before[key], after[key]) for key in before if key.startswith(("0.", "1.")))
    assert not same(before["4.weight"], after["4.weight"])
    member.apply({"frozen_layers": 0})
    member.train(1)
    assert not same(weights(member)["0.weight"], after["0.weight"])


def test_signals_are_those_of_the_mdp() -> None:
    member = build(values={"lr": 0.01}, optimizer="sgd", momentum=0.0)
    signals = member.train(40).signals
    assert set(signals) == set(SIGNALS) - {"train_seconds"}
    assert signals["loss_slope"] < 0 < signals["loss_noise"] < 1
    assert signals["update_norm"] > 0
    assert set(member.train(1).signals) == {"train_loss", "grad_norm", "update_norm"}
    assert PROBES > 1


def test_nan_is_reported_and_not_raised() -> None:
    def broken() -> Any:
        train, validation, test = blobs()
        return (np.full_like(train[0], np.nan), train[1]), validation, test

    def strict(outputs: torch.Tensor, targets: torch.Tensor) -> float:
        if torch.isnan(outputs).any():
            raise ValueError("NaN")
        return 1.0

    result = build(data=broken, metrics={"strict": strict}).train(3)
    assert np.isnan(result.metrics["train_loss"]) and np.isnan(result.metrics["validation_loss"])
    assert np.isnan(result.metrics["validation_strict"])


def test_an_exploding_learning_rate_is_reported_and_a_copy_heals() -> None:
    sound, sick = build(member=0), build(member=1, optimizer="sgd", values=START | {"lr": 1e30})
    sound = build(member=0, optimizer="sgd")
    assert not np.isfinite(sick.train(20).metrics["train_loss"])
    sick.set_state(sound.get_state())
    assert sick.apply(START) == START
    assert np.isfinite(sick.train(5).metrics["validation_loss"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions_survive_a_snapshot(dtype: torch.dtype) -> None:
    class Cast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(2, 3).to(dtype)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            outputs: torch.Tensor = self.body(inputs.to(dtype)).float()
            return outputs

    task = TorchTask(Cast, blobs, loss=nn.CrossEntropyLoss())
    member, other = build(task, {"lr": 0.01}), build(task, {"lr": 0.01})
    member.train(3)
    other.set_state(pickle.loads(pickle.dumps(member.get_state())))
    assert member.train(3) == other.train(3)


def test_a_regression_has_no_accuracy() -> None:
    def line() -> Any:
        inputs = np.linspace(-1, 1, 90)[:, None]
        return tuple((inputs[start::3], 2 * inputs[start::3] + 1) for start in range(3))

    def network() -> nn.Module:
        return nn.Linear(1, 1)

    member = build(TorchTask(network, line, loss=nn.MSELoss(), optimizer="sgd", batch_size=8), {"lr": 0.1})
    result = member.train(200)
    assert set(result.metrics) == {"validation_loss", "train_loss"}
    assert result.metrics["validation_loss"] < 1e-3


def test_an_optimizer_of_ones_own() -> None:
    member = build(values={"lr": 0.1, "momentum": 0.3}, optimizer=lambda parameters: torch.optim.RMSprop(parameters))
    member.train(3)
    assert member.apply({"lr": 0.2, "momentum": 0.4}) == {"lr": 0.2, "momentum": 0.4}
    assert member.controls.optimizer.param_groups[0]["momentum"] == 0.4
    assert mlp is TASK.network
