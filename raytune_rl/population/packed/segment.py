"""Training a packed population for a segment, with measurements along the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch

from raytune_rl.population.packed.population import PackedPopulation

Batch: TypeAlias = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]
"""Inputs, targets and weights, as ``PackedPopulation.step`` takes them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentCurves:
    """Measurements of K members over a segment.

    Attributes:
        losses: of every step, shape (steps, K).
        gradient_norms, update_norms: of some steps, shape (probes, K); see the methods of ``PackedPopulation``.
    """

    losses: torch.Tensor
    gradient_norms: torch.Tensor
    update_norms: torch.Tensor


def train_segment(
    population: PackedPopulation, next_batch: Callable[[], Batch], length: int, probes: int
) -> SegmentCurves:
    """Train for ``length`` steps. The norms are measured in about ``probes`` of them, evenly spaced, since each takes a
    copy of all parameters."""
    losses: list[torch.Tensor] = []
    gradient_norms: list[torch.Tensor] = []
    update_norms: list[torch.Tensor] = []
    every = max(1, length // probes)
    for step in range(length):
        batch = next_batch()
        before = population.parameters.clone() if step % every == 0 else None
        losses.append(population.step(*batch))
        if before is not None:
            gradient_norms.append(population.gradient_norms())
            update_norms.append(population.update_norms(before))
    return SegmentCurves(
        losses=torch.stack(losses),
        gradient_norms=torch.stack(gradient_norms),
        update_norms=torch.stack(update_norms),
    )
