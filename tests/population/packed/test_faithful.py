"""Whatever a network does: packed members either train as they would alone, or are trained alone, with a reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from raytune_rl.population.candidate import MemberContext, SegmentResult
from raytune_rl.population.packed import members as packed_members
from raytune_rl.population.packed.members import TorchPack
from raytune_rl.population.torch_member import TorchMember
from raytune_rl.population.torch_task import TorchTask
from raytune_rl.records import Value

MEMBERS, SEGMENTS, STEPS = 4, 2, 6
PACKED, ALONE = True, False


class Net(nn.Module):
    """A network whose forward pass is a function of itself and its inputs."""

    def __init__(self, forward: Callable[[Any, torch.Tensor], torch.Tensor], **modules: Any) -> None:
        super().__init__()
        self.function = forward
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.function(self, inputs)


def data(*shape: int, tokens: int = 0) -> Callable[[], Any]:
    def source() -> Any:
        rng = np.random.default_rng(0)

        def split(rows: int) -> Any:
            inputs = rng.integers(0, tokens, (rows, *shape)) if tokens else rng.normal(size=(rows, *shape))
            return inputs, rng.integers(0, 3, rows)

        return split(96), split(40), None

    return source


VECTORS, IMAGES, SEQUENCES, TOKENS = data(6), data(2, 8, 8), data(7, 4), data(7, tokens=11)


def starts(member: int) -> Mapping[str, Value]:
    """Of members that differ in everything that a pack can hold."""
    return {
        "lr": 1e-2 * (member + 1),
        "weight_decay": 1e-2 * member,
        "momentum": 0.8 + 0.05 * member,
        "grad_clip": 0.5 if member == 1 else 0.0,
        "batch_size": 16 + 4 * member,
    }


def last(outputs: tuple[torch.Tensor, Any]) -> torch.Tensor:
    return outputs[0][:, -1]


# -- networks ----------------------------------------------------------------------------------------------------------


def reads_the_grus_attributes() -> nn.Module:
    def forward(net: Any, x: torch.Tensor) -> torch.Tensor:
        net.rnn.flatten_parameters()
        state = x.new_zeros(net.rnn.num_layers, len(x), net.rnn.hidden_size)
        return net.head(last(net.rnn(x, state)))

    return Net(forward, rnn=nn.GRU(4, 5, batch_first=True), head=nn.Linear(5, 3))


def packs_its_sequences() -> nn.Module:
    def forward(net: Any, x: torch.Tensor) -> torch.Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, torch.full((len(x),), 5), batch_first=True)
        return net.head(net.rnn(packed)[1][-1])

    return Net(forward, rnn=nn.GRU(4, 5, batch_first=True), head=nn.Linear(5, 3))


def asks_what_its_layers_are() -> nn.Module:
    def forward(net: Any, x: torch.Tensor) -> torch.Tensor:
        for layer in net.layers:
            skip = isinstance(layer, nn.Conv2d) and layer.in_channels == layer.out_channels
            x = x + torch.relu(layer(x)) if skip else layer(x)
        return net.head(x.flatten(1))

    layers = nn.ModuleList(nn.Conv2d(2, 2, 3, padding=1) for _ in range(2))
    return Net(forward, layers=layers, head=nn.Linear(128, 3))


def frozen_by_its_factory() -> nn.Module:
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    network[0].requires_grad_(False)
    return network


def frozen_embedding() -> nn.Module:
    table = torch.randn(11, 5, generator=torch.Generator().manual_seed(0))
    return nn.Sequential(nn.Embedding.from_pretrained(table), nn.Flatten(), nn.Linear(35, 3))


def backbone_without_gradient() -> nn.Module:
    def forward(net: Any, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            hidden = net.backbone(x)
        return net.head(hidden)

    return Net(forward, backbone=nn.Linear(6, 8), head=nn.Linear(8, 3))


def unused_head() -> nn.Module:
    return Net(lambda net, x: net.head(x), other=nn.Linear(6, 8), head=nn.Linear(6, 3))


def padded_embedding() -> nn.Module:
    return nn.Sequential(nn.Embedding(11, 5, padding_idx=0), nn.Flatten(), nn.Linear(35, 3))


def padded_and_tied() -> nn.Module:
    embedding, output = nn.Embedding(11, 5, padding_idx=0), nn.Linear(5, 11, bias=False)
    output.weight = embedding.weight
    return Net(lambda net, x: net.out(net.mix(net.table(x).mean(1))), table=embedding, mix=nn.Linear(5, 5), out=output)


def padded_functionally() -> nn.Module:
    def forward(net: Any, x: torch.Tensor) -> torch.Tensor:
        return net.head(F.embedding(x, net.table.weight, padding_idx=0).flatten(1))

    return Net(forward, table=nn.Embedding(11, 5), head=nn.Linear(35, 3))


def random_plain_tensor() -> nn.Module:
    net = Net(lambda net, x: net.head(torch.cos(x @ net.features)), head=nn.Linear(16, 3))
    net.features = torch.randn(6, 16)  # type: ignore[assignment]
    return net


def random_plain_number() -> nn.Module:
    net = Net(lambda net, x: net.head(net.scale * x), head=nn.Linear(6, 3))
    net.scale = float(torch.rand(()))  # type: ignore[assignment]
    return net


def counts_its_calls() -> nn.Module:
    def forward(net: Any, x: torch.Tensor) -> torch.Tensor:
        net.calls += net.training
        return net.head(x) * (1 + 0.1 * net.calls)

    net = Net(forward, head=nn.Linear(6, 3))
    net.calls = 0  # type: ignore[assignment]
    return net


def assigns_a_buffer() -> nn.Module:
    def forward(net: Any, x: torch.Tensor) -> torch.Tensor:
        hidden = net.first(x)
        if net.training:
            net.mean = 0.9 * net.mean + 0.1 * hidden.detach()[:16].mean(0)
            net.count = net.count + 1
        return net.head(hidden - net.mean)

    net = Net(forward, first=nn.Linear(6, 8), head=nn.Linear(8, 3))
    net.register_buffer("mean", torch.zeros(8))
    net.register_buffer("count", torch.zeros((), dtype=torch.long))
    return net


def batch_statistics_of_its_own() -> nn.Module:
    def forward(net: Any, x: torch.Tensor) -> torch.Tensor:
        hidden = net.first(x)
        return net.head((hidden - hidden.mean(0)) / (hidden.std(0) + 1e-5))

    return Net(forward, first=nn.Linear(6, 8), head=nn.Linear(8, 3))


def hook_on_a_parameter() -> nn.Module:
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    network[0].weight.register_hook(lambda grad: grad * 0.0)
    return network


def leaves_torch() -> nn.Module:
    return Net(lambda net, x: net.head(torch.from_numpy(np.asarray(x.detach()))), head=nn.Linear(6, 3))


def weight_norm() -> nn.Module:
    first = nn.utils.parametrizations.weight_norm(nn.Linear(6, 8))
    return nn.Sequential(first, nn.ReLU(), nn.Linear(8, 3))


def spectral_norm() -> nn.Module:
    first = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 8))
    return nn.Sequential(first, nn.ReLU(), nn.Linear(8, 3))


def orthogonal() -> nn.Module:
    first = nn.utils.parametrizations.orthogonal(nn.Linear(6, 6), orthogonal_map="cayley")
    return nn.Sequential(first, nn.ReLU(), nn.Linear(6, 3))


def class_in_the_factory() -> nn.Module:
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(6, 3)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return torch.tanh(self.head(inputs))

    return Inner()


def instance_norm() -> nn.Module:
    norm = nn.InstanceNorm2d(4, affine=True)
    return nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), norm, nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


CASES = [
    (reads_the_grus_attributes, SEQUENCES, PACKED),
    (packs_its_sequences, SEQUENCES, ALONE),
    (asks_what_its_layers_are, IMAGES, PACKED),
    (frozen_by_its_factory, VECTORS, PACKED),
    (frozen_embedding, TOKENS, PACKED),
    (backbone_without_gradient, VECTORS, PACKED),
    (unused_head, VECTORS, PACKED),
    (padded_embedding, TOKENS, PACKED),
    (padded_and_tied, TOKENS, PACKED),
    (padded_functionally, TOKENS, ALONE),
    (random_plain_tensor, VECTORS, ALONE),
    (random_plain_number, VECTORS, ALONE),
    (counts_its_calls, VECTORS, ALONE),
    (assigns_a_buffer, VECTORS, PACKED),
    (batch_statistics_of_its_own, VECTORS, ALONE),
    (hook_on_a_parameter, VECTORS, ALONE),
    (leaves_torch, VECTORS, ALONE),
    (weight_norm, VECTORS, ALONE),
    (spectral_norm, VECTORS, ALONE),
    (orthogonal, VECTORS, PACKED),
    (class_in_the_factory, VECTORS, PACKED),
    (instance_norm, IMAGES, PACKED),
]


def built(task: TorchTask, of: Callable[[int], Mapping[str, Value]] = starts) -> list[TorchMember]:
    members = [task.build(MemberContext(member=i, seed=100 + i), of(i)) for i in range(MEMBERS)]
    assert all(isinstance(member, TorchMember) for member in members)
    return members  # type: ignore[return-value]


def train_both(task: TorchTask, of: Callable[[int], Mapping[str, Value]] = starts) -> tuple[Any, Any, bool, str | None]:
    """Members trained by a pack (those that it leaves alone, alone), others trained alone; whether all were packed."""
    together, alone, pack = built(task, of), built(task, of), TorchPack()
    packed, reason = True, None
    for _ in range(SEGMENTS):
        results = pack.train(together, STEPS)
        reason = reason or pack.reason
        for member, result in zip(together, results, strict=True):
            if not isinstance(result, SegmentResult):
                packed = False
                member.train(STEPS)
        for member in alone:
            member.train(STEPS)
    return together, alone, packed, reason


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize(("network", "source", "packed"), CASES, ids=[case[0].__name__ for case in CASES])
def test_packed_members_train_as_they_would_alone(
    network: Callable[[], nn.Module],
    source: Callable[[], Any],
    packed: bool,
    optimizer: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packed_members, "_min_members", lambda network, device: 2)
    task = TorchTask(network, source, loss=nn.CrossEntropyLoss(), optimizer=optimizer)
    together, alone, all_packed, reason = train_both(task)
    assert all_packed == packed, reason
    assert (reason is None) == packed
    for one, other in zip(together, alone, strict=True):
        theirs, expected = one.get_state(), other.get_state()
        assert set(theirs["optimizer"]) == set(expected["optimizer"])
        for name, value in expected["network"].items():
            np.testing.assert_allclose(theirs["network"][name], value, rtol=1e-3, atol=2e-5, err_msg=name)


class FunctionalDropout(nn.Module):
    """As nanoGPT's attention keeps its rate: a number, and not a module."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.first, self.second, self.dropout = nn.Linear(6, 64), nn.Linear(64, 3), dropout

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.second(F.dropout(F.relu(self.first(inputs)), self.dropout, self.training))


def hooked_dropout(dropout: float = 0.0) -> nn.Module:
    network = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Dropout(dropout), nn.Linear(64, 3))
    network[2].register_forward_hook(lambda module, inputs, output: output)
    return network


@pytest.mark.parametrize("network", [FunctionalDropout, hooked_dropout])
def test_a_rate_that_members_cannot_have_of_their_own_is_never_another_ones(network: Any) -> None:
    """Nor an earlier one, when it changes for all of them."""
    task = TorchTask(network, VECTORS, loss=nn.CrossEntropyLoss(), optimizer="sgd", roles={"dropout": "dropout"})
    differing = built(task, lambda member: {"lr": 0.01, "dropout": [0.0, 0.3, 0.6, 0.95][member]})
    pack = TorchPack()
    assert pack.train(differing, STEPS) == [None] * MEMBERS
    assert pack.reason is not None and "dropout" in pack.reason
    alike = built(task, lambda member: {"lr": 0.0, "dropout": 0.0})
    losses = []
    for rate in (0.0, 0.95):
        for member in alike:
            member.apply({"dropout": rate})
        results = pack.train(alike, 40)
        losses.append([result.signals["train_loss"] for result in results if isinstance(result, SegmentResult)])
    assert len(losses[0]) == len(losses[1]) == MEMBERS
    assert np.mean(losses[1]) > np.mean(losses[0]) + 0.05


def wide(width: int) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(
        nn.Linear(6, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3)
    )


def large_images() -> nn.Module:
    head = nn.Linear(32 * 30 * 30, 3)
    return nn.Sequential(nn.Conv2d(2, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), head)


def batch_norm() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


def attention() -> nn.Module:
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
    return nn.Sequential(layer, nn.Flatten(), nn.Linear(28, 3))


@pytest.mark.parametrize(
    ("network", "source", "reason"),
    [
        (wide(600), VECTORS, "networks of 366,603 parameters train faster one by one"),
        (large_images, data(2, 32, 32), "MB of buffers per member and step, they train faster one by one"),
        (batch_norm, IMAGES, "a convolutional network that is no stack of known layers trains faster one by one"),
        (attention, SEQUENCES, "_scaled_dot_product_flash_attention_for_cpu has no batching rule"),
    ],
)
def test_members_that_are_faster_alone_train_alone(network: Any, source: Any, reason: str) -> None:
    pack = TorchPack()
    members = built(TorchTask(network, source, loss=nn.CrossEntropyLoss()), lambda _: {"lr": 1e-3, "batch_size": 64})
    assert pack.train(members, 1) == [None] * MEMBERS
    assert pack.reason is not None and reason in pack.reason


def test_smaller_batches_are_as_exact_as_the_network() -> None:
    """In float64, without dropout, 100 steps by SGD: Adam would hide an error of scale."""

    def forward(net: Any, inputs: torch.Tensor) -> torch.Tensor:
        return net.second(torch.tanh(net.first(inputs.double())))

    def network() -> nn.Module:
        return Net(forward, first=nn.Linear(6, 8), second=nn.Linear(8, 3)).double()

    task = TorchTask(network, VECTORS, loss=nn.CrossEntropyLoss(), optimizer="sgd")
    together, alone = built(task), built(task)
    pack = TorchPack()
    assert all(isinstance(result, SegmentResult) for result in pack.train(together, 100)), pack.reason
    for packed, member in zip(together, alone, strict=True):
        member.train(100)
        expected = member.get_state()["network"]
        assert expected["first.weight"].dtype == np.float64
        for name, value in packed.get_state()["network"].items():
            np.testing.assert_allclose(value, expected[name], rtol=0, atol=1e-9)


def test_layers_are_frozen_beside_what_the_factory_has_frozen() -> None:
    roles = {"frozen_layers": "frozen_layers"}
    task = TorchTask(frozen_by_its_factory, VECTORS, loss=nn.CrossEntropyLoss(), roles=roles)
    together, alone, packed, reason = train_both(task, lambda member: {"lr": 0.01, "frozen_layers": member % 2})
    assert packed, reason
    for one, other in zip(together, alone, strict=True):
        start, theirs, expected = (member.get_state()["network"] for member in (built(task)[0], one, other))
        assert start.keys() == theirs.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(theirs[name], value, rtol=1e-3, atol=2e-5, err_msg=name)
    first, second = (built(task, lambda member: {"lr": 0.01, "frozen_layers": 0})[0] for _ in range(2))
    second.train(3)
    assert torch.equal(first.controls.network[0].weight, second.controls.network[0].weight)
