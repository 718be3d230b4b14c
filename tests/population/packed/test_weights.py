"""Models that are taken apart, stacked and averaged."""

from __future__ import annotations

import torch

from raytune_rl.population.packed.weights import Weights

THREE = Weights(
    parameters=torch.tensor([[1.0, 2.0], [3.0, 6.0], [torch.nan, 0.0]]),
    buffers={"mean": torch.tensor([[1.0], [2.0], [torch.nan]]), "count": torch.tensor([3, 5, 7])},
)


def test_an_average_is_of_those_with_a_share() -> None:
    found = THREE.averages(torch.tensor([[0.75, 0.25, 0.0], [0.0, 1.0, 0.0]], dtype=torch.float64))
    torch.testing.assert_close(found.parameters, torch.tensor([[1.5, 3.0], [3.0, 6.0]]))
    torch.testing.assert_close(found.buffers["mean"], torch.tensor([[1.25], [2.0]]))
    assert found.buffers["count"].tolist() == [3, 5] and len(found) == 2


def test_what_is_taken_and_stacked_is_in_order_and_a_copy() -> None:
    again = Weights.stack([THREE.take(slice(1, 2)), THREE.take(torch.tensor([0]))])
    assert len(again) == 2 and again.parameters.tolist() == [[3.0, 6.0], [1.0, 2.0]]
    assert again.buffers["count"].tolist() == [5, 3]
    again.parameters.zero_()
    assert THREE.parameters[0].tolist() == [1.0, 2.0]
