"""Parameters of many networks in one matrix."""

from __future__ import annotations

import torch
from torch import nn
from torch.func import stack_module_state

from raytune_rl.population.packed.flat_parameters import FlatParameters


def test_views_and_indices_name_the_same_numbers() -> None:
    networks = [nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 4, bias=False)) for _ in range(5)]
    flat = FlatParameters.of(networks, stack_module_state(networks)[0])  # type: ignore[arg-type]
    assert flat.columns == {"0.weight": slice(0, 6), "0.bias": slice(6, 8), "2.weight": slice(8, 16)}
    assert flat.tensor_of_column.tolist() == [0] * 6 + [1] * 2 + [2] * 8
    assert flat.layer_of_tensor.tolist() == [0, 0, 1]
    for member, network in enumerate(networks):
        for name, parameter in network.named_parameters():
            assert torch.equal(flat.views[name][member], parameter)
    flat.gradients[1, 8:] = 1.0
    assert flat.gradient_views["2.weight"].flatten(1).sum(dim=1).tolist() == [0.0, 8.0, 0.0, 0.0, 0.0]
    views = flat.views_of(flat.parameters[2:4])
    assert all(torch.equal(views[name], flat.views[name][2:4]) for name in views)
