from __future__ import annotations

import pytest
from torch import nn

from raytune_rl.population.places import loss_settings, place_of
from tests.population.models import mlp


def focal(outputs: object, targets: object, gamma: float = 2.0) -> None: ...


@pytest.mark.parametrize(
    ("name", "role", "place"),
    [
        ("eta", "learning_rate", "learning_rate"),
        ("lr", "none", "learning_rate"),
        ("beta1", None, "momentum"),
        ("dropout", None, "dropout"),
        ("width", "none", "network"),
        ("width", "dropout", "dropout"),
        ("smooth", "label_smoothing", "label_smoothing"),
        ("ignore_index", None, "loss"),
        ("gain", None, "initialisation"),
        ("strength", "augmentation", "augmentation"),
        ("augmentation", None, "augmentation"),
        ("colour", "none", None),
    ],
)
def test_the_role_decides_then_the_network_then_the_name_then_the_loss(name: str, role: str | None, place: str) -> None:
    assert place_of(name, role=role, network=mlp, loss=nn.CrossEntropyLoss()) == place


def test_an_argument_of_the_network_comes_before_a_common_name() -> None:
    def network(momentum: float) -> None: ...

    assert place_of("momentum", role=None, network=network, loss=focal) == "network"
    assert place_of("momentum", role="momentum", network=network, loss=focal) == "momentum"


def test_label_smoothing_needs_a_loss_that_has_it() -> None:
    assert place_of("label_smoothing", role="label_smoothing", network=mlp, loss=nn.MSELoss()) is None


def test_settings_of_losses() -> None:
    assert loss_settings(focal) == {"gamma"}
    assert loss_settings(nn.HuberLoss()) == {"delta"}
    assert "label_smoothing" in loss_settings(nn.CrossEntropyLoss())
