"""Torch members that train together do what each of them would do alone."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from raytune_rl.population import augmentations
from raytune_rl.population.candidate import MemberContext, SegmentResult
from raytune_rl.population.packed.members import TorchPack
from raytune_rl.population.torch_member import TorchMember
from raytune_rl.population.torch_task import TorchTask
from raytune_rl.records import Value
from tests.devices import DEVICES
from tests.population.models import blobs

LENGTH = 12


def mlp(width: int = 16, dropout: float = 0.0) -> nn.Module:
    return nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 8), nn.Linear(8, 3))


def normal() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


def spatial() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 2)), nn.Conv1d(1, 6, 3, padding=2), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(),
        nn.Linear(12, 3),
    )  # fmt: skip


def fickle(dropout: float = 0.0) -> nn.Module:
    """With other modules, and the same tensors, where much is to be dropped at the start."""
    between = nn.ReLU() if dropout < 0.3 else nn.Sequential(nn.Tanh())
    return nn.Sequential(nn.Linear(2, 8), between, nn.Dropout(dropout), nn.Linear(8, 3))


class Choosy(nn.Module):
    """Looks at its numbers to decide what to do, which no batched program can."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.layer(inputs)
        return outputs * 2 if outputs.detach().sum() > 0 else outputs


@pytest.fixture(autouse=True)
def few_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raytune_rl.population.packed.members.MIN_MEMBERS", 2)


TASK = TorchTask(mlp, blobs, loss=nn.CrossEntropyLoss())


def values(member: int) -> dict[str, Value]:
    """Every control of its own for each member."""
    return {
        "lr": 1e-2 * (member + 1),
        "weight_decay": 1e-3 * member,
        "momentum": 0.8 + 0.05 * member,
        "label_smoothing": 0.05 * member,
        "grad_clip": 0.5 if member == 1 else 0.0,
        "batch_size": 16 + 8 * member,
        "frozen_layers": member % 2,
    }


def build(task: TorchTask, start: Any = values, members: int = 3, device: str = "cpu") -> list[TorchMember]:
    built = [task.build(MemberContext(member=i, seed=100 + i, device=device), start(i)) for i in range(members)]
    return [member for member in built if isinstance(member, TorchMember)]


def train(pack: TorchPack, members: list[TorchMember]) -> list[SegmentResult]:
    results = pack.train(members, LENGTH)
    assert pack.reason is None
    return [result for result in results if result is not None]


def assert_alike(packed: list[TorchMember], alone: list[TorchMember]) -> None:
    for one, other in zip(packed, alone, strict=True):
        found, expected = one.get_state(), other.get_state()
        for name in ("member", "seed", "steps", "examples", "hyperparameters"):
            assert found[name] == expected[name]
        assert found["metrics"] == pytest.approx(expected["metrics"], abs=1e-5)
        for name, array in expected["network"].items():
            np.testing.assert_allclose(found["network"][name], array, atol=1e-4, err_msg=name)
        assert found["optimizer"].keys() == expected["optimizer"].keys()
        for index, slots in expected["optimizer"].items():
            assert found["optimizer"][index].keys() == slots.keys()
            for name, array in slots.items():
                np.testing.assert_allclose(found["optimizer"][index][name], array, atol=1e-4, err_msg=name)
                assert found["optimizer"][index][name].dtype == array.dtype


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("network", [mlp, normal, spatial])
@pytest.mark.parametrize("device", DEVICES)
def test_together_is_like_alone(network: Any, optimizer: Any, device: str) -> None:
    def start(member: int) -> dict[str, Value]:
        # batches and frozen layers of one kind where examples of a batch see each other
        return values(member) | ({"batch_size": 20, "frozen_layers": 1} if network is normal else {})

    task = dataclasses.replace(TASK, network=network, optimizer=optimizer)
    packed, alone, pack = build(task, start, device=device), build(task, start, device=device), TorchPack()
    for _ in range(3):
        for found, member in zip(train(pack, packed), alone, strict=True):
            expected = member.train(LENGTH)
            assert found.metrics == pytest.approx(expected.metrics, abs=1e-5)
            assert found.signals == pytest.approx(expected.signals, abs=1e-4)
            assert found.steps == expected.steps
    assert_alike(packed, alone)


def test_snapshots_go_from_packed_to_plain_members_and_back() -> None:
    packed, alone, pack = build(TASK), build(TASK), TorchPack()
    train(pack, packed)
    for member, other in zip(packed, alone, strict=True):
        other.set_state(member.get_state())
    packed[0].set_state(packed[2].get_state())
    alone[0].set_state(alone[2].get_state())
    packed[1].apply({"lr": 3e-2, "frozen_layers": 0})
    alone[1].apply({"lr": 3e-2, "frozen_layers": 0})
    train(pack, packed)
    for other in alone:
        other.train(LENGTH)
    assert_alike(packed, alone)


@pytest.mark.parametrize(
    ("loss", "name"),
    [(nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 3.0])), "label_smoothing"), (nn.MultiMarginLoss(), "margin")],
)
def test_any_loss_will_do(loss: nn.Module, name: str) -> None:
    def start(member: int) -> dict[str, Value]:
        return {"lr": 1e-2, "batch_size": 16 + member, name: 0.1 + 0.2 * member}

    task = dataclasses.replace(TASK, loss=loss)
    packed, alone, pack = build(task, start), build(task, start), TorchPack()
    for _ in range(2):
        train(pack, packed)
        for other in alone:
            other.train(LENGTH)
    assert_alike(packed, alone)


def test_what_cannot_be_packed_is_left_as_it_was() -> None:
    task = dataclasses.replace(TASK, network=Choosy)
    packed, alone, pack = build(task), build(task), TorchPack()
    assert list(pack.train(packed, LENGTH)) == [None] * 3
    assert pack.reason is not None and "data-dependent control flow" in pack.reason
    for member, other in zip(packed, alone, strict=True):
        assert member.train(LENGTH) == other.train(LENGTH)
    assert list(pack.train(packed, LENGTH)) == [None] * 3 and pack.reason is not None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"precision": "bfloat16"}, "mixed precision"),
        ({"optimizer": lambda parameters: torch.optim.RMSprop(parameters, lr=1e-3)}, "optimiser"),
    ],
)
def test_reasons_are_told(changes: dict[str, Any], reason: str) -> None:
    pack = TorchPack()
    assert list(pack.train(build(dataclasses.replace(TASK, **changes)), 2)) == [None] * 3
    assert reason in str(pack.reason)


def test_too_few_train_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raytune_rl.population.packed.members.MIN_MEMBERS", 4)
    start: Any = lambda member: {"lr": 1e-2}  # noqa: E731
    pack, task = TorchPack(), dataclasses.replace(TASK, network=normal)
    assert list(pack.train(build(task, start), LENGTH)) == [None] * 3
    assert "less than 4" in str(pack.reason)
    assert None not in pack.train(build(task, start, members=4), LENGTH)
    assert None not in pack.train(build(TASK, start, members=2), LENGTH), "a stack of linear layers"
    convolutional = dataclasses.replace(TASK, network=spatial)
    assert None not in pack.train(build(convolutional, start, members=2), LENGTH), "one by hand, too"


def test_members_of_one_architecture_go_chunks_for() -> None:
    pack = TorchPack()
    members = build(TASK, lambda member: {"lr": 1e-2, "width": 8 if member == 1 else 16})
    results = pack.train(members, LENGTH)
    assert [result is None for result in results] == [False, True, False]
    assert "architecture" in str(pack.reason)


def test_divergence_stays_with_its_member() -> None:
    def start(member: int) -> dict[str, Value]:
        return {"lr": 1e30 if member == 1 else 1e-2}

    packed, alone, pack = build(TASK, start), build(TASK, start), TorchPack()
    for _ in range(2):
        results = train(pack, packed)
        for other in alone:
            other.train(LENGTH)
    assert np.isnan(results[1].metrics["validation_loss"])
    assert_alike([packed[0], packed[2]], [alone[0], alone[2]])


class Double(nn.Module):
    """Float64 inside, from the first layer on."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 3)).double()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.layers(inputs.double())
        return outputs


@pytest.mark.parametrize(("network", "exact"), [(Double, True), (mlp, False)])
def test_augmentation_is_what_each_member_would_see_alone(network: Any, exact: bool) -> None:
    def start(member: int) -> dict[str, Value]:
        return {"lr": 1e-2, "batch_size": 16 + 8 * member, "strength": [0.0, 0.5, 1.0][member]}

    task = dataclasses.replace(TASK, network=network, augment=augmentations.noise, roles={"strength": "augmentation"})
    packed, alone, pack = build(task, start), build(task, start), TorchPack()
    bare = build(dataclasses.replace(task, augment=lambda inputs, strength, generator: inputs), start)
    for _ in range(3):
        train(pack, packed)
        for other in (*alone, *bare):
            other.train(LENGTH)
        alone[0].apply({"strength": 0.25})
        packed[0].apply({"strength": 0.25})
    assert_alike(packed, alone)
    for member, other in zip(packed, alone, strict=True):
        for name, array in other.get_state()["network"].items():
            np.testing.assert_allclose(member.get_state()["network"][name], array, atol=1e-9 if exact else 1e-4)
    with pytest.raises(AssertionError):
        assert_alike(packed[1:], bare[1:])


def test_an_augmentation_that_breaks_batches_is_left_to_the_plain_loop_to_tell() -> None:
    task = dataclasses.replace(TASK, augment=lambda inputs, strength, generator: inputs[:, :1], augmentation=0.1)
    pack, members = TorchPack(), build(task)
    assert list(pack.train(members, LENGTH)) == [None] * 3 and "augment was given" in str(pack.reason)
    with pytest.raises(ValueError, match="augment was given inputs"):
        members[0].train(LENGTH)


def test_dropout_is_repeatable_and_of_each_layers_own_rate() -> None:
    def network(early: float = 0.0, late: float = 0.0) -> nn.Module:
        return nn.Sequential(nn.Dropout(early), nn.Linear(2, 32), nn.ReLU(), nn.Dropout(late), nn.Linear(32, 3))

    task = dataclasses.replace(TASK, network=network, roles={"early": "dropout", "late": "dropout"})

    def start(member: int) -> dict[str, Value]:
        return {"lr": 1e-2, "early": 0.0, "late": [0.0, 0.5, 0.9][member]}

    first, second, alone = (build(task, start) for _ in range(3))
    one, other = train(TorchPack(), first), train(TorchPack(), second)
    assert one == other
    expected = [member.train(LENGTH) for member in alone]
    assert one[0].metrics == pytest.approx(expected[0].metrics, abs=1e-5)
    assert one[1].metrics != pytest.approx(expected[1].metrics, abs=1e-5)
    assert one[2].signals["train_loss"] == pytest.approx(expected[2].signals["train_loss"], rel=0.5)


def test_members_whose_modules_differ_go_apart() -> None:
    """Their tensors have the same shapes, but one program would train them all as the first."""
    task = dataclasses.replace(TASK, network=fickle)

    def start(member: int) -> dict[str, Value]:
        return {"dropout": 0.0 if member < 2 else 0.5, "lr": 0.01}

    together, alone = build(task, start, members=4), build(task, start, members=4)
    for member in (*together, *alone):
        member.apply({"dropout": 0.0, "lr": 0.01})
    assert None not in TorchPack().train(together, LENGTH)
    for packed, plain in zip(together, alone, strict=True):
        plain.train(LENGTH)
        for a, b in zip(packed.controls.network.parameters(), plain.controls.network.parameters(), strict=True):
            torch.testing.assert_close(a, b)
