"""Hand-written stacks give what autograd gives for each network alone."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from torch import nn

from raytune_rl.population.packed import PackedPopulation, chunks, stack
from raytune_rl.population.packed.losses import MemberLosses

MEMBERS, BATCH = 3, 5
EXACT = [nn.ReLU, nn.ReLU, lambda: nn.LeakyReLU(0.25)]
SMOOTH = [nn.ReLU, nn.Tanh, nn.Sigmoid, lambda: nn.LeakyReLU(0.1), nn.SiLU, nn.GELU]


def drawn(seed: int) -> tuple[nn.Sequential, tuple[int, ...]]:
    """Some network, and the shape of an example. Those of even seeds are exact: what goes in as multiples of a quarter
    comes to a maximum without rounding, so that what is equal is so for everyone who computes it."""
    choose = random.Random(seed)
    activations = SMOOTH if seed % 2 else EXACT
    space = choose.choice([1, 2])
    conv, pool = (nn.Conv1d, nn.MaxPool1d) if space == 1 else (nn.Conv2d, nn.MaxPool2d)

    def each(*numbers: int) -> tuple[int, ...]:
        return tuple(choose.choice(numbers) for _ in range(space))

    shape = (choose.choice([1, 3]), *each(13, 14, 16))
    parts: list[nn.Module] = []
    if choose.random() < 0.2:
        parts.append(pool(2, stride=1))
    if choose.random() < 0.2:
        parts.append(nn.Dropout(0.0))
    channels = shape[0]
    for _ in range(choose.choice([1, 2, 3])):
        wide = choose.choice([1, 2, 4])
        geometry = {"stride": each(1, 1, 2), "dilation": each(1, 1, 2), "padding": each(0, 1, 2)}
        parts.append(conv(channels, wide, each(1, 2, 3), bias=choose.random() < 0.7, **geometry))  # type: ignore[arg-type]
        channels = wide
        some = [choose.choice(activations)(), nn.Dropout(0.0), nn.Identity()]
        some.append(pool(each(1, 2, 2), stride=choose.choice([None, each(1, 2)]), dilation=each(1, 1, 2)))
        choose.shuffle(some)
        parts += some[: choose.choice([1, 2, 3, 4])]
        if choose.random() < 0.2:
            parts += [nn.ReLU(), nn.ReLU(), pool(1)]
    parts.append(nn.Flatten())
    with torch.no_grad():
        size = nn.Sequential(*parts)(torch.zeros(1, *shape)).shape[1]
    if choose.random() < 0.3:
        parts += [nn.Linear(size, 6, bias=choose.random() < 0.5), choose.choice(activations)(), nn.Dropout(0.0)]
        size = 6
    parts.append(nn.Linear(size, 3))
    return nn.Sequential(*parts), shape


def possible(seed: int) -> bool:
    """Whether all windows have room, and max pooling has something to choose from."""
    try:
        drawn(seed)
    except RuntimeError:
        return False
    return True


SEEDS = [seed for seed in range(100) if possible(seed)][:40]


def alike(network: nn.Module, exact: bool = True) -> list[nn.Module]:
    """Members with parameters of their own. Multiples of a quarter (``exact``) often have equal sums, so that many a
    maximum has to choose."""
    networks = [copy.deepcopy(network).double() for _ in range(MEMBERS)]
    for member in networks:
        for parameter in member.parameters():
            values = torch.randn_like(parameter).div(2)
            parameter.data.copy_(values.mul(4).round().div(4) if exact else values)
    return networks


def numbers(*shape: int, exact: bool = True) -> torch.Tensor:
    values = torch.randn(*shape, dtype=torch.float64)
    return values.mul(2).round().div(2) if exact else values


def alone(network: nn.Module, inputs: torch.Tensor, rate: float) -> torch.Tensor:
    """Outputs with the masks that a pack draws: members share the draw, with the examples last."""
    for layer in network.children():
        if isinstance(layer, nn.Dropout):
            draw = torch.rand(inputs.movedim(0, -1).shape, dtype=torch.float64).movedim(-1, 0)
            inputs = inputs * (draw >= rate) / (1.0 - rate)
        else:
            inputs = layer(inputs)
    return inputs


def packed_of(networks: list[nn.Module], loss: str | MemberLosses = "cross_entropy") -> PackedPopulation:
    """What a step takes from the parameters are the gradients."""
    packed = PackedPopulation(networks, loss=loss, optimizer="sgd", dtype=torch.float64)  # type: ignore[arg-type]
    assert packed._stack is not None
    packed.settings.learning_rate.fill_(1.0)
    packed.settings.momentum.zero_()
    return packed


def check(packed: PackedPopulation, member: int, network: nn.Module, loss: torch.Tensor, found: torch.Tensor) -> None:
    torch.testing.assert_close(found, loss.detach(), rtol=0, atol=1e-10)
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    now = packed.state_dict(member)
    for (name, old), grad in zip(network.named_parameters(), gradients, strict=True):
        torch.testing.assert_close(old.detach() - now[name], grad, rtol=0, atol=1e-10, msg=f"{name} of {network}")


@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_losses_and_gradients_are_those_of_autograd(seed: int, dropped: bool) -> None:
    network, shape = drawn(seed)
    torch.manual_seed(seed)
    exact = seed % 2 == 0
    networks = alike(network, exact)
    packed = packed_of(networks)
    rates = [0.0, 0.5, 0.75] if dropped else [0.0] * MEMBERS
    packed.settings.dropout.copy_(torch.tensor(rates).unsqueeze(1).expand_as(packed.settings.dropout))
    inputs, targets = numbers(MEMBERS, BATCH, *shape, exact=exact), torch.randint(0, 3, (MEMBERS, BATCH))
    outputs = packed.outputs(inputs[0])
    torch.manual_seed(1)
    losses = packed.step(inputs, targets)
    for member, (one, rate) in enumerate(zip(networks, rates, strict=True)):
        torch.testing.assert_close(outputs[member], copy.deepcopy(one).eval()(inputs[0]), rtol=0, atol=1e-10)
        torch.manual_seed(1)
        loss = nn.functional.cross_entropy(alone(one, inputs[member], rate), targets[member])
        check(packed, member, one, loss, losses[member])


def convolutional() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 2), nn.Tanh(), nn.MaxPool2d(2, 1),
        nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip


def unusual() -> list[tuple[nn.Sequential, tuple[int, ...]]]:
    """Vectors made series, edges wider than the inputs, windows that leave something over, dropout before all."""
    series = nn.Sequential(
        nn.Dropout(0.0), nn.Unflatten(1, (1, -1)), nn.Conv1d(1, 4, 5, padding=2), nn.ReLU(), nn.MaxPool1d(2),
        nn.Flatten(), nn.Linear(12, 3),
    )  # fmt: skip
    edges = nn.Sequential(nn.Conv1d(2, 3, 3, padding=4, dilation=3, stride=2), nn.Flatten())
    strides = nn.Sequential(
        nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1, stride=3), nn.MaxPool2d(2, 3), nn.Sequential(nn.Flatten())
    )
    hidden = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Unflatten(1, (2, 4)), nn.Conv1d(2, 3, 4), nn.Flatten())
    overwriting = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Sigmoid(), nn.Flatten(), nn.Tanh())
    return [
        (series, (7,)), (edges, (2, 1)), (strides, (1, 7, 11)), (hidden, (6,)), (convolutional(), (1, 6, 6)),
        (overwriting, (4,)),
    ]  # fmt: skip


@pytest.mark.parametrize("case", range(6))
@pytest.mark.parametrize("loss", ["cross_entropy", "mse", "binary_cross_entropy"])
def test_so_are_those_of_unusual_ones(case: int, loss: str) -> None:
    """With batches of two sizes in turns, which share memory, and examples without weight."""
    network, shape = unusual()[case]
    torch.manual_seed(case)
    networks = alike(network)
    packed = packed_of(networks, loss)
    for size, used in ((BATCH, BATCH), (BATCH + 2, 4), (BATCH, BATCH)):
        inputs = numbers(MEMBERS, size, *shape)
        outputs = networks[0](inputs[0]).shape[1]
        targets = (
            torch.randint(0, outputs, (MEMBERS, size))
            if loss == "cross_entropy"
            else torch.rand(MEMBERS, size, outputs, dtype=torch.float64)
        )
        weights = torch.zeros(MEMBERS, size, dtype=torch.float64)
        weights[:, :used] = 1 / used
        before = packed.parameters.clone()
        losses = packed.step(inputs, targets, None if used == size else weights)
        own = {
            "cross_entropy": nn.functional.cross_entropy,
            "mse": nn.functional.mse_loss,
            "binary_cross_entropy": nn.functional.binary_cross_entropy_with_logits,
        }[loss]
        for member, one in enumerate(networks):
            check(packed, member, one, own(one(inputs[member, :used]), targets[member, :used]), losses[member])
        packed.parameters.copy_(before)


def test_losses_of_ones_own_are_differentiated_too() -> None:
    torch.manual_seed(0)
    networks = alike(nn.Sequential(nn.Conv1d(2, 3, 3, padding=1), nn.Flatten()))

    class Own:
        loss = staticmethod(nn.functional.huber_loss)

    packed = packed_of(networks, MemberLosses([Own()] * MEMBERS))
    inputs, targets = numbers(MEMBERS, BATCH, 2, 4), numbers(MEMBERS, BATCH, 12)
    losses = packed.step(inputs, targets)
    for member, one in enumerate(networks):
        check(packed, member, one, Own.loss(one(inputs[member]), targets[member]), losses[member])


def test_dropout_that_begins_later_drops() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv1d(1, 3, 3), nn.ReLU(), nn.Dropout(0.0), nn.Flatten(), nn.Linear(12, 3))
    networks = alike(network)
    packed = packed_of(networks)
    inputs, targets = numbers(MEMBERS, BATCH, 1, 6), torch.randint(0, 3, (MEMBERS, BATCH))
    before = packed.parameters.clone()
    packed.step(inputs, targets)
    packed.parameters.copy_(before)
    packed.settings.dropout.fill_(0.5)
    torch.manual_seed(1)
    losses = packed.step(inputs, targets)
    for member, one in enumerate(networks):
        torch.manual_seed(1)
        loss = nn.functional.cross_entropy(alone(one, inputs[member], 0.5), targets[member])
        check(packed, member, one, loss, losses[member])


def test_inputs_of_another_type_are_refused() -> None:
    packed = packed_of([convolutional().double() for _ in range(MEMBERS)])
    with pytest.raises(TypeError, match=r"float64 was given inputs of torch.float32"):
        packed.step(torch.zeros(MEMBERS, BATCH, 1, 6, 6), torch.zeros(MEMBERS, BATCH, dtype=torch.int64))


def test_members_in_chunks_are_the_members(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    networks: list[nn.Module] = [convolutional().double() for _ in range(MEMBERS)]
    whole, parts = packed_of(networks), packed_of(networks)
    inputs, targets = numbers(4, MEMBERS, BATCH, 1, 6, 6), torch.randint(0, 3, (4, MEMBERS, BATCH))
    assert len(whole._chunks_for(inputs[0])) == 1
    monkeypatch.setattr(chunks, "SPATIAL_CHUNK_BYTES", 1)
    assert len(parts._chunks_for(inputs[0])) == MEMBERS
    for x, y in zip(inputs, targets, strict=True):
        torch.testing.assert_close(whole.step(x, y), parts.step(x, y), rtol=0, atol=1e-12)
    torch.testing.assert_close(whole.parameters, parts.parameters, rtol=0, atol=1e-12)


def test_outputs_of_many_are_those_of_each() -> None:
    torch.manual_seed(0)
    networks: list[nn.Module] = [convolutional().double() for _ in range(MEMBERS)]
    packed = packed_of(networks)
    inputs = numbers(stack.OUTPUTS_PER_BLOCK // MEMBERS + 3, 1, 6, 6)
    with torch.no_grad():
        expected = torch.stack([network(inputs) for network in networks])
    torch.testing.assert_close(packed.outputs(inputs), expected, rtol=0, atol=1e-12)


def test_what_is_not_a_number_stays_with_its_member() -> None:
    torch.manual_seed(0)
    networks: list[nn.Module] = [convolutional().double() for _ in range(MEMBERS)]
    packed, other = packed_of(networks), packed_of(networks)
    inputs, targets = numbers(MEMBERS, BATCH, 1, 6, 6), torch.randint(0, 3, (MEMBERS, BATCH))
    losses = other.step(inputs, targets)
    inputs[1, 0, 0, 2, 2] = torch.nan
    found = packed.step(inputs, targets)
    assert found.isnan().tolist() == packed.parameters.isnan().any(dim=1).tolist() == [False, True, False]
    torch.testing.assert_close(found[::2], losses[::2])
    torch.testing.assert_close(packed.parameters[::2], other.parameters[::2])
