"""Marks what a trial's process is training, so that after a crash the next process knows which member it was.

A process that is killed cannot say anything any more, but the kernel keeps what it has written to a file. So a few
bytes are overwritten before and after each segment, and the process that takes its place reads them.
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
class Crash:
    """What a process was training when it died: a member's segment; ``member`` is ``None`` where several members
    train as one program."""

    member: int | None
    segment: int


class CrashMarker:
    """The marker of one trial, a local file. On remote storage there is none, because every segment would wait for the
    network; a crash is then attributed to nobody.

    Args:
        store: the trial's states; the marker lies beside them.
        session: of the driver. When a driver dies, all its trials die with it, through no fault of a member; so markers
            of other sessions are ignored.

    Attributes:
        previous: what an earlier process of this session was training when it died.
    """

    def __init__(self, store: StateStore, session: str) -> None:
        self._session = session
        self.previous: Crash | None = None
        self._path = store.path(FILE)
        self._file: int | None = None
        if self._path is not None:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            self.previous = self._read(self._file)

    @contextmanager
    def training(self, member: int | None, segment: int) -> Iterator[None]:
        """Inside, a crash is attributed to that segment of that member."""
        self._write({"session": self._session, "member": member, "segment": segment})
        try:
            yield
        finally:
            self._write({})

    def close(self) -> None:
        """Remove the marker: the process ends normally."""
        if self._file is not None and self._path is not None:
            os.close(self._file)
            self._file = None
            self._path.unlink(missing_ok=True)

    def _read(self, file: int) -> Crash | None:
        try:
            content = json.loads(os.pread(file, SIZE, 0))
            crash = Crash(member=content["member"], segment=content["segment"])
            return crash if content["session"] == self._session else None
        except (ValueError, KeyError, TypeError):  # a new file, a truncated one, or nobody was training
            return None

    def _write(self, content: dict[str, str | int | None]) -> None:
        if self._file is not None:
            try:
                os.pwrite(self._file, json.dumps(content).encode().ljust(SIZE), 0)
            except OSError:  # the disk is full; better no marker than an old one, which would name the wrong member
                os.ftruncate(self._file, 0)
