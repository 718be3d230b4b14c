"""Which networks can be computed by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from raytune_rl.population.packed.dense import Elementwise, Linear, Reshape
from raytune_rl.population.packed.layers import with_packed_layers
from raytune_rl.population.packed.sequential import structure
from raytune_rl.population.packed.spatial import Convolution, MaxPool
from raytune_rl.population.packed.stack import Stack


def test_layers_keep_their_order_but_max_pooling_comes_before_relu() -> None:
    convolution = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.ReLU())
    others = [nn.MaxPool2d(2), nn.Tanh(), nn.MaxPool2d(2), nn.Identity(), nn.Flatten(), nn.Linear(8, 2)]
    found = structure(with_packed_layers(nn.Sequential(convolution, *others)))
    assert found is not None and found.example_dims == 3
    kinds = [Convolution, MaxPool, Elementwise, Elementwise, Elementwise, MaxPool, Reshape, Linear]
    assert [type(part) for part in found.layers] == kinds
    assert [part.weight for part in found.layers if isinstance(part, Convolution | Linear)] == [
        "0.0.weight",
        "6.weight",
    ]


@pytest.mark.parametrize(
    ("parts", "dims"),
    [
        ([nn.Linear(3, 2)], 1),
        ([nn.Flatten(), nn.Linear(3, 2)], None),
        ([nn.Dropout(0.1), nn.Flatten(), nn.Linear(3, 2)], None),
        ([nn.Conv1d(1, 2, 3), nn.Flatten()], 2),
        ([nn.MaxPool2d(2), nn.Flatten(), nn.Linear(3, 2)], 3),
        ([nn.Unflatten(1, (1, 8)), nn.Conv1d(1, 2, 3), nn.Flatten()], 1),
    ],
)
def test_dimensions_are_those_of_an_example(parts: list[nn.Module], dims: int | None) -> None:
    found = structure(with_packed_layers(nn.Sequential(*parts)))
    assert found is not None and found.example_dims == dims


SHARED = nn.Conv1d(2, 2, 3)


class Half(nn.Flatten):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return super().forward(inputs) / 2


def hooked() -> nn.Module:
    layer = nn.ReLU()
    layer.register_forward_hook(lambda module, given, output: output / 2)
    return layer


@pytest.mark.parametrize(
    "parts",
    [
        [nn.Flatten()],  # nothing learns
        [nn.ReLU(), nn.Linear(3, 2)],  # would overwrite the inputs
        [nn.Conv2d(1, 2, 3), nn.ReLU()],  # makes images
        [nn.Conv2d(1, 2, 3), nn.Linear(3, 2), nn.Flatten()],  # along the last dimension of an image
        [nn.Conv1d(1, 2, 3), nn.MaxPool2d(2), nn.Flatten()],  # which would take the channels for space
        [nn.Conv2d(1, 2, 3), nn.Flatten(2), nn.Linear(3, 2)],
        [nn.Unflatten(1, (2, 3)), nn.Conv2d(1, 2, 3), nn.Flatten()],
        [SHARED, SHARED, nn.Flatten()],
        [nn.Conv2d(2, 2, 3, groups=2), nn.Flatten()],
        [nn.Conv2d(1, 2, 3, padding="same"), nn.Flatten()],
        [nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"), nn.Flatten()],
        [nn.Conv2d(1, 2, 3), nn.MaxPool2d(2, padding=1), nn.Flatten()],
        [nn.Conv2d(1, 2, 3), nn.MaxPool2d(2, ceil_mode=True), nn.Flatten()],
        [nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten()],
        [nn.Conv2d(1, 2, 3), nn.Dropout2d(0.1), nn.Flatten()],
        [nn.Conv2d(1, 2, 3), nn.Flatten(1, 2)],
        [nn.Unflatten(2, (1, 8)), nn.Conv2d(1, 2, 3), nn.Flatten()],
        [nn.Conv1d(1, 2, 3), Half()],
        [nn.Conv1d(1, 2, 3), hooked(), nn.Flatten()],
        [nn.utils.spectral_norm(nn.Conv1d(1, 2, 3)), nn.Flatten()],
        [nn.utils.spectral_norm(nn.Linear(3, 2))],
    ],
)
def test_the_rest_is_left_to_vmap(parts: list[nn.Module]) -> None:
    assert structure(with_packed_layers(nn.Sequential(*parts))) is None


@pytest.mark.parametrize(("device", "spatial"), [("cpu", True), ("cuda", False), ("mps", False)])
def test_what_goes_over_space_is_left_to_vmap_but_on_a_cpu(device: str, spatial: bool) -> None:
    convolutional, linear = (
        nn.Sequential(nn.Conv1d(1, 2, 3), nn.Flatten()),
        nn.Sequential(nn.Flatten(), nn.Linear(3, 2)),
    )
    assert Stack.fits(with_packed_layers(convolutional), torch.device(device)) == spatial
    assert Stack.fits(linear, torch.device(device))


def test_torchs_own_convolutions_are_left_to_torch() -> None:
    """That is what a pack of one has."""
    assert structure(with_packed_layers(nn.Sequential(nn.Conv1d(1, 2, 3), nn.Flatten()), alone=True)) is None
