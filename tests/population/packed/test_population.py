"""Packed members do what they would do alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from raytune_rl.population.networks import freeze, training_mode
from raytune_rl.population.optimisers import OptimizerName, make_optimizer, set_momentum
from raytune_rl.population.packed import PackedPopulation, chunks
from raytune_rl.population.packed.weights import Weights
from tests.devices import DEVICES

MEMBERS, STEPS, BATCH = 4, 100, 16


def mlp() -> nn.Module:
    """Dropout before the first layer, an activation after a dropout, two in a row, one that goes by its input."""
    return nn.Sequential(
        nn.Dropout(0.0),
        nn.Linear(6, 12),
        nn.ReLU(),
        nn.Dropout(0.0),
        nn.Tanh(),
        nn.Linear(12, 8),
        nn.GELU(),
        nn.LeakyReLU(0.1),
        nn.Dropout(0.0),
        nn.Linear(8, 8),
        nn.SiLU(),
        nn.Sigmoid(),
        nn.Linear(8, 3),
    )


def plain_mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Dropout(0.0), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3))


def masked_mlp() -> nn.Module:
    """Masks that are wanted on the way back, after activations whose outputs they must leave alone."""
    return nn.Sequential(
        nn.Linear(6, 12), nn.Tanh(), nn.Dropout(0.0), nn.Linear(12, 12), nn.Sigmoid(), nn.Dropout(0.0), nn.Linear(12, 3)
    )  # fmt: skip


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 6)),
        # no bias: the normalisation takes it out again, and Adam would follow the rounding of its zero gradient
        nn.Conv1d(1, 4, 3, padding=1, bias=False),
        nn.BatchNorm1d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24, 3),
    )


def plain_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool1d(2), nn.Dropout(0.0),
        nn.Conv1d(4, 5, 2), nn.Tanh(), nn.Flatten(), nn.Linear(10, 3),
    )  # fmt: skip


SETTINGS: dict[str, list[float]] = {
    "learning_rate": [1e-3, 3e-3, 1e-2, 3e-2],
    "weight_decay": [0.0, 1e-4, 1e-3, 1e-2],
    "momentum": [0.0, 0.5, 0.9, 0.95],
    "label_smoothing": [0.0, 0.05, 0.1, 0.3],
    "grad_clip": [0.0, 0.1, 0.5, 2.0],
}
FROZEN = [0, 1, 0, 2]


def batches(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(STEPS, MEMBERS, BATCH, 6, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, 3, (STEPS, MEMBERS, BATCH), generator=generator)
    return inputs, targets


def train_alone(network: nn.Module, member: int, optimizer: OptimizerName, frozen: int) -> list[float]:
    """The plain loop, with torch's own optimiser, loss and clipping."""
    inputs, targets = batches()
    frozen = freeze(network, frozen)
    own = make_optimizer(
        optimizer,
        network.parameters(),
        learning_rate=SETTINGS["learning_rate"][member],
        weight_decay=SETTINGS["weight_decay"][member],
        momentum=0.9,
    )
    for group in own.param_groups:
        set_momentum(group, SETTINGS["momentum"][member])
    loss = nn.CrossEntropyLoss(label_smoothing=SETTINGS["label_smoothing"][member])
    training_mode(network, frozen)
    losses = []
    for x, y in zip(inputs[:, member], targets[:, member], strict=True):
        own.zero_grad(set_to_none=True)
        value = loss(network(x), y)
        value.backward()
        if SETTINGS["grad_clip"][member] > 0:
            nn.utils.clip_grad_norm_(network.parameters(), SETTINGS["grad_clip"][member])
        own.step()
        losses.append(float(value.detach()))
    return losses


def pack(factory: Any, optimizer: OptimizerName, device: str, frozen: bool) -> tuple[PackedPopulation, list[nn.Module]]:
    torch.manual_seed(0)
    networks = [factory().double() for _ in range(MEMBERS)]
    packed = PackedPopulation(networks, optimizer=optimizer, device=device, dtype=torch.float64)
    for name, values in SETTINGS.items():
        getattr(packed.settings, name).copy_(torch.tensor(values, dtype=torch.float64))
    if frozen:
        packed.settings.frozen_layers.copy_(torch.tensor(FROZEN))
    return packed, networks


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize(
    ("factory", "frozen"),
    [(mlp, False), (plain_mlp, False), (plain_mlp, True), (cnn, False), (plain_cnn, False), (plain_cnn, True)],
)
def test_a_hundred_steps_give_what_the_plain_loop_gives(
    factory: Any, frozen: bool, optimizer: OptimizerName, device: str
) -> None:
    packed, networks = pack(factory, optimizer, device, frozen)
    inputs, targets = batches()
    losses = torch.stack([packed.step(x.to(device), y.to(device)) for x, y in zip(inputs, targets, strict=True)]).cpu()
    for member, network in enumerate(networks):
        alone = train_alone(network, member, optimizer, FROZEN[member] if frozen else 0)
        assert losses[:, member].tolist() == pytest.approx(alone, abs=1e-9)
        found = packed.state_dict(member)
        for name, value in network.state_dict().items():
            assert torch.allclose(found[name].cpu().double(), value.double(), rtol=0, atol=1e-9), name


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_one_momentum_for_all_gives_the_same(optimizer: OptimizerName, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then torch's own kernel makes Adam's step for everyone; learning rate and decay still differ."""
    monkeypatch.setitem(SETTINGS, "momentum", [0.8] * MEMBERS)
    packed, networks = pack(plain_mlp, optimizer, "cpu", False)
    inputs, targets = batches()
    for x, y in zip(inputs, targets, strict=True):
        packed.step(x, y)
    for member, network in enumerate(networks):
        train_alone(network, member, optimizer, 0)
        found = packed.state_dict(member)
        assert all(torch.allclose(found[n], v, rtol=0, atol=1e-9) for n, v in network.state_dict().items())


def test_members_in_chunks_are_the_members(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = pack(plain_mlp, "adam", "cpu", False)
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 2 * 4 * 8 * whole.parameters.shape[1])  # two of them
    parts, _ = pack(plain_mlp, "adam", "cpu", False)
    inputs, targets = batches()
    for x, y in zip(inputs[:10], targets[:10], strict=True):
        assert torch.allclose(whole.step(x, y), parts.step(x, y), rtol=0, atol=1e-12)
    assert torch.allclose(whole.parameters, parts.parameters, rtol=0, atol=1e-12)


@pytest.mark.parametrize("device", DEVICES)
def test_a_copy_brings_weights_and_optimiser_and_leaves_settings(device: str) -> None:
    packed, _ = pack(plain_mlp, "adam", device, False)
    inputs, targets = (part.to(device) for part in batches())
    packed.step(inputs[0], targets[0])
    packed.copy([0, 1], [1, 0])
    rates = packed.settings.learning_rate.clone()
    packed.copy([0], [3])
    assert torch.equal(packed.settings.learning_rate, rates)
    assert torch.equal(packed.parameters[0], packed.parameters[3])
    packed.settings.learning_rate.fill_(1e-2)
    for name in ("weight_decay", "label_smoothing", "grad_clip"):
        getattr(packed.settings, name).zero_()
    packed.settings.momentum.fill_(0.9)
    same = inputs[1, :1].expand(MEMBERS, -1, -1), targets[1, :1].expand(MEMBERS, -1)
    packed.step(*same)
    assert torch.allclose(packed.parameters[0], packed.parameters[3]), "the optimiser's state came along"
    assert not torch.allclose(packed.parameters[0], packed.parameters[1])


def test_a_smaller_batch_is_a_weight_of_zero() -> None:
    wide, _ = pack(mlp, "sgd", "cpu", False)
    narrow, _ = pack(mlp, "sgd", "cpu", False)
    inputs, targets = batches()
    weights = torch.zeros(MEMBERS, BATCH, dtype=torch.float64)
    weights[:, :5] = 1 / 5
    wide.step(inputs[0], targets[0], weights)
    narrow.step(inputs[0][:, :5], targets[0][:, :5])
    assert torch.allclose(wide.parameters, narrow.parameters, rtol=0, atol=1e-12)


def test_dropout_is_each_members_own_and_off_for_outputs() -> None:
    packed, _ = pack(mlp, "sgd", "cpu", False)
    packed.settings.dropout.copy_(torch.tensor([0.0, 0.0, 0.9, 0.9]).unsqueeze(1))
    for name in SETTINGS:
        getattr(packed.settings, name).fill_(0.0)
    inputs, targets = batches()
    torch.manual_seed(0)
    losses = torch.stack([packed.step(inputs[0], targets[0]) for _ in range(20)])
    assert (losses.std(dim=0) > 1e-6).tolist() == [False, False, True, True]
    assert torch.equal(packed.outputs(inputs[0, 0]), packed.outputs(inputs[0, 0]))
    assert packed.outputs(inputs[0, 0]).shape == (MEMBERS, BATCH, 3)


@pytest.mark.parametrize("make", [mlp, plain_mlp, masked_mlp])
def test_gradients_under_dropout_are_those_of_autograd(make: Any) -> None:
    torch.manual_seed(0)
    networks = [make().double() for _ in range(MEMBERS)]
    packed = PackedPopulation(networks, optimizer="sgd", dtype=torch.float64)
    rates = torch.tensor([0.0, 0.2, 0.5, 0.9])
    packed.settings.dropout.copy_(rates.unsqueeze(1).expand_as(packed.settings.dropout))
    packed.settings.learning_rate.fill_(1.0)
    packed.settings.momentum.zero_()
    inputs, targets = batches()
    torch.manual_seed(1)
    losses = packed.step(inputs[0], targets[0])
    for member, (network, rate) in enumerate(zip(networks, rates.tolist(), strict=True)):
        torch.manual_seed(1)  # members share the draw
        hidden = inputs[0, member]
        for layer in network:
            if isinstance(layer, nn.Dropout):
                draw = torch.rand(hidden.T.shape, dtype=torch.float64).T
                kept = draw >= rate
                hidden = hidden * kept / (1.0 - rate)
            else:
                hidden = layer(hidden)
        loss = nn.functional.cross_entropy(hidden, targets[0, member])
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        assert losses[member].item() == pytest.approx(loss.item(), abs=1e-6)
        for (name, now), old, grad in zip(
            packed.state_dict(member).items(), network.parameters(), gradients, strict=True
        ):
            torch.testing.assert_close(now, old.detach() - grad, rtol=1e-6, atol=1e-7, msg=name)


@pytest.mark.parametrize("make", [mlp, cnn, plain_cnn])
@pytest.mark.parametrize("members", [1, MEMBERS])
def test_other_models_are_asked_without_becoming_members(make: Any, members: int) -> None:
    packed = PackedPopulation([make() for _ in range(members)], dtype=torch.float64)
    inputs, targets = batches()
    for step in range(3):
        packed.step(inputs[step, :members], targets[step, :members])
    before = packed.snapshot()
    others = [make().double().eval() for _ in range(MEMBERS + 1)]
    for network in others:
        network(inputs[0, 0])
    states = [dict(network.state_dict()) for network in others]
    models = Weights(
        parameters=torch.stack([torch.cat([p.detach().flatten() for p in network.parameters()]) for network in others]),
        buffers={name: torch.stack([state[name] for state in states]) for name in packed.weights.buffers},
    )
    theirs = torch.stack([network(inputs[0, 0]) for network in others])
    torch.testing.assert_close(packed.outputs(inputs[0, 0], models), theirs)
    torch.testing.assert_close(packed.outputs(inputs[0, 0], models.take(slice(1, 2))), theirs[1:2])
    torch.testing.assert_close(
        packed.outputs(inputs[0, 0], Weights.stack([models, packed.weights]))[-members:],
        packed.outputs(inputs[0, 0]),
    )
    assert all(torch.equal(one, two) for one, two in zip(packed.snapshot().tensors(), before.tensors(), strict=True))


def test_a_layer_used_twice_counts_twice() -> None:
    shared, drop = nn.Linear(6, 6), nn.Dropout(0.5)
    network = nn.Sequential(shared, drop, nn.ReLU(), shared, drop, nn.Linear(6, 3)).double()
    packed = PackedPopulation([network, network], optimizer="sgd", dtype=torch.float64)
    packed.settings.dropout.zero_()
    inputs, targets = batches()
    own = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)
    network.eval()  # no dropout here either
    for x, y in zip(inputs[:5, 0], targets[:5, 0], strict=True):
        packed.step(x.expand(2, -1, -1), y.expand(2, -1))
        own.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        own.step()
    found = packed.state_dict(1)
    assert all(torch.allclose(found[name], value, rtol=0, atol=1e-12) for name, value in network.named_parameters())


def test_vectors_in_sequences_are_left_to_vmap() -> None:
    torch.manual_seed(0)
    network = nn.Linear(6, 3).double()
    packed = PackedPopulation([network], loss="mse", optimizer="sgd", dtype=torch.float64)
    inputs, targets = torch.randn(1, 4, 5, 6, dtype=torch.float64), torch.randn(1, 4, 5, 3, dtype=torch.float64)
    expected = nn.functional.mse_loss(network(inputs[0]), targets[0])
    assert packed.step(inputs, targets).item() == pytest.approx(expected.item(), abs=1e-12)


def test_momentum_can_be_switched_on_later() -> None:
    packed, networks = pack(mlp, "sgd", "cpu", False)
    for name in SETTINGS:
        getattr(packed.settings, name).zero_()
    packed.settings.learning_rate.fill_(0.1)
    own = torch.optim.SGD(networks[0].parameters(), lr=0.1)
    inputs, targets = batches()
    for index, momentum in enumerate([0.0, 0.0, 0.9, 0.9, 0.0, 0.9]):
        packed.settings.momentum.fill_(momentum)
        own.param_groups[0]["momentum"] = momentum
        packed.step(inputs[index], targets[index])
        own.zero_grad()
        nn.functional.cross_entropy(networks[0](inputs[index, 0]), targets[index, 0]).backward()
        own.step()
    found = packed.state_dict(0)
    assert all(torch.allclose(found[n], value, rtol=0, atol=1e-12) for n, value in networks[0].named_parameters())


def test_networks_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="Networks 0 and 1 differ"):
        PackedPopulation([nn.Linear(3, 2), nn.Linear(3, 4)])
    with pytest.raises(ValueError, match="at least one"):
        PackedPopulation([])


@pytest.mark.parametrize("loss", ["cross_entropy", "mse", "binary_cross_entropy"])
def test_products_by_hand_are_what_vmap_gives(loss: Any) -> None:
    torch.manual_seed(1)
    networks = [
        nn.Sequential(nn.Sequential(nn.Linear(6, 5), nn.Sigmoid()), nn.Linear(5, 3, bias=False)).double()
        for _ in range(3)
    ]
    by_hand, by_vmap = (PackedPopulation(networks, loss=loss, optimizer="sgd", dtype=torch.float64) for _ in range(2))
    assert by_hand._stack is not None
    by_vmap._stack = None
    inputs = torch.randn(3, 8, 6, dtype=torch.float64)
    targets = torch.randint(0, 3, (3, 8)) if loss == "cross_entropy" else torch.rand(3, 8, 3, dtype=torch.float64)
    for _ in range(5):
        assert torch.allclose(by_hand.step(inputs, targets), by_vmap.step(inputs, targets), rtol=0, atol=1e-12)
    assert torch.allclose(by_hand.parameters, by_vmap.parameters, rtol=0, atol=1e-12)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_snapshot_brings_members_back(optimizer: str) -> None:
    """A member that takes its own or another's earlier state trains on as that one did, moments and all."""
    torch.manual_seed(0)
    packed = PackedPopulation([nn.Linear(3, 2) for _ in range(3)], optimizer=optimizer, dtype=torch.float64)
    batches = [(torch.randn(3, 4, 3, dtype=torch.float64), torch.randint(2, (3, 4))) for _ in range(6)]
    for inputs, targets in batches[:2]:
        packed.step(inputs, targets)
    snapshot = packed.snapshot()
    packed.keep(torch.tensor([False, False, False]), snapshot)
    for inputs, targets in batches[2:4]:
        packed.step(inputs, targets)
    kept = packed.parameters.clone()
    packed.copy([1, 0], [0, 2], snapshot=snapshot, from_snapshot=[True, False])
    torch.testing.assert_close(packed.parameters[0], snapshot.parameters[1])
    torch.testing.assert_close(packed.parameters[1:], torch.stack([kept[1], kept[0]]))
    other = PackedPopulation([nn.Linear(3, 2) for _ in range(2)], optimizer=optimizer, dtype=torch.float64)
    other.adopt(packed, [2, 0])
    inputs, targets = batches[5]
    inputs, targets = inputs[:1].expand(3, -1, -1), targets[:1].expand(3, -1)
    packed.step(inputs, targets)
    other.step(inputs[:2], targets[:2])
    torch.testing.assert_close(other.parameters, packed.parameters[[2, 0]])
