"""Layers that stand in for torch's own give what torch's give, alone and packed."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from raytune_rl.population.packed import PackedPopulation
from raytune_rl.population.packed.layers import with_packed_layers
from tests.devices import DEVICES

LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "gru": (nn.GRU(3, 5, batch_first=True), (4, 6, 3)),
    "deep gru, both ways": (nn.GRU(3, 5, num_layers=2, bidirectional=True), (6, 4, 3)),
    "gru without bias": (nn.GRU(3, 5, bias=False), (6, 4, 3)),
    "conv1d": (nn.Conv1d(3, 5, 5, padding=2, bias=False), (4, 3, 9)),
    "conv2d": (nn.Conv2d(3, 5, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2)), (4, 3, 9, 8)),
    "maxpool1d": (nn.MaxPool1d(2), (4, 3, 9)),
    "maxpool2d": (nn.MaxPool2d((2, 3), stride=(1, 2), dilation=(2, 1)), (4, 3, 9, 8)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_outputs_and_gradients_are_torchs(name: str) -> None:
    torch.manual_seed(0)
    layer, shape = LAYERS[name]
    own = nn.ModuleList([copy.deepcopy(layer)]).double()
    packed = with_packed_layers(copy.deepcopy(own))
    assert type(packed[0]) is not type(layer)  # type: ignore[index]
    assert [n for n, _ in packed.named_parameters()] == [n for n, _ in own.named_parameters()]
    # values that occur several times, so that a maximum has to choose
    inputs = torch.randn(shape, dtype=torch.float64).mul(4).round().div(4)
    found = []
    for network in (own, packed):
        given = inputs.clone().requires_grad_()
        outputs = network[0](given)  # type: ignore[index]
        outputs = torch.cat([part.flatten() for part in outputs]) if isinstance(outputs, tuple) else outputs
        (outputs * torch.linspace(-1, 1, outputs.numel(), dtype=torch.float64).view_as(outputs)).sum().backward()
        found.append([outputs.detach(), given.grad, *(parameter.grad for parameter in network.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRU(3, 5, batch_first=True)
        self.head = nn.Linear(5, 2)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.head(self.cell(inputs)[0][:, -1])
        return outputs


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 2), nn.ReLU(), nn.Flatten(),
        nn.Linear(16, 2),
    )  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize(("factory", "shape"), [(Recurrent, (6, 3)), (convolutional, (1, 6, 6))])
def test_a_pack_of_them_is_like_the_plain_loop(
    factory: type[nn.Module], shape: tuple[int, ...], members: int, device: str
) -> None:
    torch.manual_seed(0)
    networks = [factory().to(device, torch.float64) for _ in range(members)]
    packed = PackedPopulation(networks, optimizer="adam", device=device, dtype=torch.float64)
    inputs = torch.randn(20, members, 8, *shape, dtype=torch.float64).to(device)
    targets = torch.randint(0, 2, (20, members, 8)).to(device)
    for x, y in zip(inputs, targets, strict=True):
        packed.step(x, y)
    for member, network in enumerate(networks):
        own = torch.optim.Adam(network.parameters(), lr=1e-3)
        for x, y in zip(inputs[:, member], targets[:, member], strict=True):
            own.zero_grad()
            nn.functional.cross_entropy(network(x), y).backward()
            own.step()
        found = packed.state_dict(member)
        for name, value in network.state_dict().items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-9)
        network.eval()
        torch.testing.assert_close(packed.outputs(inputs[0, 0])[member], network(inputs[0, 0]), rtol=0, atol=1e-9)
