"""What a trial's state file holds, and how others read a member's weights from it.

A file is ``{"slots": {member: {"memory": Memory, "state": State | None, "snapshots": [Snapshot, ...]}}}``, written by
``HostTrainable.save_state``. The driver reads it after the run, another trial when it copies from one without an actor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from raytune_rl.population.candidate import State
from raytune_rl.records import Decision, Value
from raytune_rl.tune.storage import StateStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A member's weights as they were after ``segment`` (-1: untrained)."""

    member: int
    segment: int
    state: State


@dataclass(slots=True)
class Memory:
    """What a slot must know again after a restart of its actor, beside the member's own state.

    Attributes:
        decision: the decision in force.
        segment: the segment that the member trains next.
        steps: optimiser steps made so far; never fewer after a return to earlier weights.
        effective: the hyperparameters that the candidate has read back.
        best, best_value, best_loss: its best weights, their metric, and the loss that decides between equal metrics.
        stopped: it trains no more.
        builds: how often it has been built.
        reported: whether it has reported at all.
        copied: donor and donor's segment of a copy that the next report has to name.
    """

    decision: Decision
    segment: int = 0
    steps: int = 0
    effective: Mapping[str, Value] = field(default_factory=dict)
    best: Snapshot | None = None
    best_value: float = math.nan
    stopped: bool = False
    builds: int = 0
    reported: bool = False
    copied: tuple[int, int] | None = None
    best_loss: float = math.nan

    @classmethod
    def from_saved(cls, saved: Memory) -> Memory:
        """What a file held; one of an earlier version may lack the newer fields, which then get their defaults."""
        return cls(**{f.name: getattr(saved, f.name) for f in fields(cls) if hasattr(saved, f.name)})


def read_snapshot(state_uri: str, member: int, *, best: bool = False) -> Snapshot | None:
    """A member's newest or best weights from its trial's state file; ``None`` if they are not there."""
    saved = StateStore(state_uri).load()
    if saved is None or member not in saved["slots"]:
        return None
    slot = saved["slots"][member]
    if best:
        best_snapshot: Snapshot | None = slot["memory"].best
        return best_snapshot
    state: State | None = slot["state"]
    return None if state is None else Snapshot(member=member, segment=slot["memory"].segment - 1, state=state)


def read_snapshots(state_uri: str) -> dict[str, list[Snapshot]]:
    """All weights in a trial's state file: each member's ``best`` and ``final`` ones, and every ``snapshot``."""
    saved = StateStore(state_uri).load()
    snapshots: dict[str, list[Snapshot]] = {"best": [], "final": [], "snapshot": []}
    for member, slot in (saved or {"slots": {}})["slots"].items():
        if slot["memory"].best is not None:
            snapshots["best"].append(slot["memory"].best)
        if slot["state"] is not None:
            last = slot["memory"].segment - 1
            snapshots["final"].append(Snapshot(member=member, segment=last, state=slot["state"]))
        snapshots["snapshot"] += slot.get("snapshots", [])
    return snapshots
