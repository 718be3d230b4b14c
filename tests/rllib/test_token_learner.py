"""How far an agent is from the clone it began as."""

from __future__ import annotations

import pytest
import torch
from ray.rllib.core.distribution.torch.torch_distribution import TorchMultiCategorical

from raytune_rl.controller.tokens import IMPOSSIBLE
from raytune_rl.rllib.token_learner import divergence_from

TWO_HEADS = TorchMultiCategorical.get_partial_dist_cls(input_lens=[3, 2])


def test_it_is_the_divergence_of_the_shares() -> None:
    clone = torch.tensor([[0.0, 0.0, IMPOSSIBLE, 0.0, 0.0]])
    logits = torch.log(torch.tensor([[0.9, 0.1, 1.0, 0.5, 0.5]]))
    logits[:, 2] = IMPOSSIBLE
    expected = 0.9 * torch.log(torch.tensor(1.8)) + 0.1 * torch.log(torch.tensor(0.2))
    assert divergence_from(clone, logits, TWO_HEADS).item() == pytest.approx(expected.item(), rel=1e-5)
    assert divergence_from(logits, logits, TWO_HEADS).item() == 0.0


def test_what_the_clone_would_never_do_is_far_away_and_not_infinitely_far() -> None:
    clone = torch.tensor([[0.0, -150.0, IMPOSSIBLE, 0.0, 0.0]])
    logits = torch.tensor([[0.0, 0.0, IMPOSSIBLE, 0.0, 0.0]], requires_grad=True)
    found = divergence_from(clone, logits, TWO_HEADS)
    found.backward()
    assert 20.0 < found.item() < 40.0
    assert logits.grad is not None and torch.isfinite(logits.grad).all()
    assert logits.grad[0, 1] > 0.0  # less of it is nearer
