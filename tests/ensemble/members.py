"""Trained members without any Ray, and what a run would have kept of them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from torch import nn

from raytune_rl.ensemble.kept import Kept
from raytune_rl.population.torch_task import TorchTask
from tests.population.models import blobs, build


def blobs_network(dropout: float = 0.0, width: int = 16) -> nn.Module:
    return nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 3))


TASK = TorchTask(blobs_network, blobs, loss=nn.CrossEntropyLoss())
SEGMENTS, LENGTH = 4, 6


@functools.cache
def trained(members: int = 4, width: int = 16) -> tuple[tuple[Kept, ...], pd.DataFrame]:
    """States after every segment of members with different learning rates: the last as ``final``, those before as
    ``snapshot``. Member 1 has begun with the weights of member 0 after its first segment."""
    kept, rows = [], []
    for member in range(members):
        values = {"lr": 0.003 * 2.0**member, "dropout": 0.1, "width": width}
        one = build(TASK, values, member=member, seed=member)
        for segment in range(SEGMENTS):
            copied = member == 1 and segment == 1
            if copied:
                one.set_state(kept[0].state)
                one.apply(values)
            one.train(LENGTH)
            origin = "final" if segment == SEGMENTS - 1 else "snapshot"
            kept.append(Kept(member=member, segment=segment, origin=origin, state=one.get_state()))
            rows.append(row(member, segment, 0 if copied else None, values))
    return tuple(kept), table(rows)


NOISY = TorchTask(blobs_network, blobs, loss=nn.CrossEntropyLoss(), batch_size=4)


@functools.cache
def noisy() -> tuple[Kept, ...]:
    """One member's states under so high a rate that it wanders about a minimum, which their mean is nearer to."""
    one = build(NOISY, {"lr": 0.1, "dropout": 0.1})
    kept = []
    for segment in range(8):
        one.train(LENGTH)
        kept.append(Kept(member=0, segment=segment, origin="snapshot", state=one.get_state()))
    return tuple(kept)


def row(member: int, segment: int, donor: int | None, values: dict[str, Any]) -> dict[str, Any]:
    copied = {"copied_from": donor, "copied_segment": None if donor is None else segment - 1}
    hyperparameters = {f"hp/{name}": value for name, value in values.items()}
    return {"member": member, "segment": segment, "status": "ok", **copied, **hyperparameters}


def table(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows).astype({"copied_from": "Int64", "copied_segment": "Int64"})


def inputs(rows: int, *shape: int) -> torch.Tensor:
    return torch.randn(rows, *shape, generator=torch.Generator().manual_seed(0))
