"""What the driver sends a trial: decisions for its members, and the weights that come from other trials."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import ray

from raytune_rl.records import Decision
from raytune_rl.tune.hosts.state_files import Snapshot, read_snapshot

FILE_POLL = 0.05
"""Seconds between two looks at another trial's state file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """Decisions for a trial's members.

    Attributes:
        decisions: at most one per member.
        copies: by receiving member, the snapshot that comes from another trial: an ObjectRef, or a ``FileTransfer``.
        save: write the state file afterwards.
        stage: keep the state as it is then, for a ``commit`` that writes it later.
    """

    decisions: tuple[Decision, ...]
    copies: Mapping[int, Any]
    save: bool = False
    stage: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FileTransfer:
    """A snapshot from the state file of a trial that has no actor: it has ended, or it is paused. A ``Transfer``.

    ``segment`` is the last one that the donor has reported. A receiver that can wait gets the file that holds it, any
    other the newest file there is.
    """

    state_uri: str
    member: int
    kind: Literal["member", "checkpoint"]
    segment: int

    def ready(self, timeout: float = 0.0) -> bool:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            present = read_snapshot(self.state_uri, self.member)
            if present is not None and present.segment >= self.segment:
                break
            time.sleep(FILE_POLL)
        return True

    def get(self) -> Snapshot:
        snapshot = read_snapshot(self.state_uri, self.member, best=self.kind == "checkpoint")
        if snapshot is None:
            raise LookupError(f"no state of member {self.member} in {self.state_uri}")
        return snapshot


class RefTransfer:
    """A snapshot on its way through Ray's object store. A ``Transfer``."""

    def __init__(self, ref: ray.ObjectRef) -> None:
        self._ref = ref

    def ready(self, timeout: float = 0.0) -> bool:
        done, _ = ray.wait([self._ref], timeout=timeout)
        return bool(done)

    def get(self) -> Snapshot:
        snapshot: Snapshot = ray.get(self._ref)
        return snapshot
