from __future__ import annotations

import pytest
import torch
from torch import nn

from raytune_rl.population.networks import build_network, freeze, initialise, layers

CPU = torch.device("cpu")


def two(first: float, second: float) -> nn.Module:
    return nn.Sequential(nn.Dropout(first), nn.Dropout(second), nn.Dropout(0.3))


def halved(dropout: float) -> nn.Module:
    return nn.Sequential(nn.Linear(1, 1), nn.Dropout(dropout / 2))


def attention(dropout: float) -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, 16, dropout=dropout)


def test_dropout_arguments_are_told_apart_even_with_equal_values() -> None:
    built = build_network(two, {"first": 0.3, "second": 0.3}, device=CPU, dropout=["first", "second"])
    assert isinstance(built.network, nn.Sequential)
    assert [module.p for module in built.network.children()] == [0.3, 0.3, 0.3]
    assert [handle[0] for handle in built.dropout["first"]] == [built.network[0]]
    assert [handle[0] for handle in built.dropout["second"]] == [built.network[1]]


def test_a_dropout_that_marks_nothing_moves_every_layer() -> None:
    built = build_network(halved, {"dropout": 0.4}, device=CPU, dropout=["dropout"])
    assert len(built.dropout["dropout"]) == 1


def test_dropout_inside_attention_follows_too() -> None:
    built = build_network(attention, {"dropout": 0.1}, device=CPU, dropout=["dropout"])
    owners = {type(module).__name__ for module, _ in built.dropout["dropout"]}
    assert owners == {"Dropout", "MultiheadAttention"}


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_the_ends_of_the_dropout_range_are_legal(value: float) -> None:
    built = build_network(attention, {"dropout": value}, device=CPU, dropout=["dropout"])
    assert {getattr(module, name) for module, name in built.dropout["dropout"]} == {value}


def test_initial_weights_come_from_the_seed_alone() -> None:
    def draw(seed: int) -> torch.Tensor:
        return next(build_network(lambda: nn.Linear(3, 3), {}, device=CPU, seed=seed).network.parameters())

    before = torch.get_rng_state()
    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))
    assert torch.equal(before, torch.get_rng_state())


def test_initialisation_schemes() -> None:
    layer = nn.Linear(64, 64)
    initialise(layer, ["orthogonal", 2.0])
    assert torch.allclose(layer.weight @ layer.weight.T, 4 * torch.eye(64), atol=1e-4)
    assert torch.all(layer.bias == 0)
    initialise(layer, ["kaiming"])
    assert float(layer.weight.detach().std()) == pytest.approx((2 / 64) ** 0.5, rel=0.1)
    initialise(layer, ["xavier"])
    assert float(layer.weight.detach().std()) == pytest.approx((1 / 64) ** 0.5, rel=0.1)
    before = layer.weight.clone()
    initialise(layer, [0.5])
    assert torch.equal(layer.weight, before / 2)
    with pytest.raises(ValueError, match="'magic' is unknown; it must be one of default, xavier"):
        initialise(layer, ["magic"])


def test_layers_are_looked_for_inside_a_wrapper() -> None:
    body = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.Linear(2, 1))
    assert layers(nn.Sequential(nn.Sequential(body))) == [body[0], body[2], body[3]]


def test_the_last_layer_always_trains() -> None:
    body = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    assert freeze(body, 5) == 1
    assert [parameter.requires_grad for parameter in body.parameters()] == [False, False, True, True]
    assert freeze(body, -1) == 0
    assert all(parameter.requires_grad for parameter in body.parameters())


def test_what_the_factory_has_frozen_stays_so_whatever_is_frozen_beside_it() -> None:
    def factory() -> nn.Module:
        network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 1))
        network[1].weight.requires_grad_(False)
        return network

    built = build_network(factory, {}, device=torch.device("cpu"))
    assert built.fixed == {"1.weight"}
    for count, frozen in ((1, {"0.weight", "0.bias", "1.weight"}), (0, {"1.weight"})):
        freeze(built.network, count, fixed=built.fixed)
        assert {name for name, p in built.network.named_parameters() if not p.requires_grad} == frozen
