"""Who trains in a trial's process at the moment, said where the death of that process leaves it readable.

A process that is killed cannot say which member it was at. But what it has written into a file the kernel keeps, so a
few bytes are written over before and after each segment, and the process that takes its place reads them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from raytune_rl.tune.storage import StateStore

FILE: Final = "training.json"
SIZE: Final = 128
"""Bytes, always written together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """What a process was at when it died: a member's segment; ``member`` is ``None`` where several train as one
    program."""

    member: int | None
    segment: int


class Presence:
    """The file of one trial. Only on a local disk: elsewhere every segment would wait for the network, and nobody is
    blamed for a death.

    Args:
        store: beside whose states it lies.
        session: of the driver. A driver that dies takes all its trials along, which no member is to blame for.
    """

    def __init__(self, store: StateStore, session: str) -> None:
        self._session = session
        self.before: Death | None = None
        """What an earlier process of this session died at."""
        self._path = store.path(FILE)
        self._file: int | None = None
        if self._path is not None:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            self.before = self._read(self._file)

    @contextmanager
    def training(self, member: int | None, segment: int) -> Iterator[None]:
        """While inside, that is what the process is at."""
        self._write({"session": self._session, "member": member, "segment": segment})
        try:
            yield
        finally:
            self._write({})

    def close(self) -> None:
        """The process ends as it should."""
        if self._file is not None and self._path is not None:
            os.close(self._file)
            self._file = None
            self._path.unlink(missing_ok=True)

    def _read(self, file: int) -> Death | None:
        try:
            content = json.loads(os.pread(file, SIZE, 0))
            death = Death(member=content["member"], segment=content["segment"])
            return death if content["session"] == self._session else None
        except (ValueError, KeyError, TypeError):  # new, cut short, or nobody was training
            return None

    def _write(self, content: dict[str, str | int | None]) -> None:
        if self._file is not None:
            try:
                os.pwrite(self._file, json.dumps(content).encode().ljust(SIZE), 0)
            except OSError:  # the disk is full: nobody will be blamed
                os.ftruncate(self._file, 0)
