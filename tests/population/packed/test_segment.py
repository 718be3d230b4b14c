"""A segment trains step by step and measures some of the steps."""

from __future__ import annotations

import torch
from torch import nn

from raytune_rl.population.packed import PackedPopulation
from raytune_rl.population.packed.segment import Batch, train_segment

MEMBERS, LENGTH = 3, 10


def population() -> PackedPopulation:
    torch.manual_seed(0)
    return PackedPopulation([nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 2)) for _ in range(MEMBERS)])


def batches() -> list[Batch]:
    torch.manual_seed(1)
    return [(torch.randn(MEMBERS, 6, 4), torch.randint(2, (MEMBERS, 6)), None) for _ in range(LENGTH)]


def test_a_segment_is_its_steps() -> None:
    segment, by_step = population(), population()
    curves = train_segment(segment, iter(batches()).__next__, LENGTH, probes=4)
    losses = torch.stack([by_step.step(*batch) for batch in batches()])
    assert torch.equal(curves.losses, losses)
    assert torch.equal(segment.parameters, by_step.parameters)


def test_norms_are_those_of_evenly_spaced_steps() -> None:
    by_step = population()
    curves = train_segment(population(), iter(batches()).__next__, LENGTH, probes=3)
    gradient_norms, update_norms = [], []
    for batch in batches():
        before = by_step.parameters.clone()
        by_step.step(*batch)
        gradient_norms.append(by_step.gradient_norms())
        update_norms.append(by_step.update_norms(before))
    assert torch.equal(curves.gradient_norms, torch.stack(gradient_norms)[[0, 3, 6, 9]])
    assert torch.equal(curves.update_norms, torch.stack(update_norms)[[0, 3, 6, 9]])


def test_a_short_segment_measures_every_step() -> None:
    curves = train_segment(population(), iter(batches()).__next__, 2, probes=8)
    assert curves.losses.shape == curves.gradient_norms.shape == curves.update_norms.shape == (2, MEMBERS)


def test_update_norms_leave_out_what_is_frozen() -> None:
    packed = population()
    packed.settings.frozen_layers[1] = 1
    before = packed.parameters.clone()
    packed.step(*batches()[0])
    frozen_columns = 4 * 5 + 5
    change = packed.parameters - before
    assert not change[1, :frozen_columns].any() and change[0, :frozen_columns].any()
    expected = torch.stack([change[0].norm() / before[0].norm(), change[1].norm() / before[1, frozen_columns:].norm()])
    torch.testing.assert_close(packed.update_norms(before)[:2], expected)
