"""Keeps state through crashes: files that are written atomically, of which the two newest generations are kept.

Tune's own checkpoints cannot do this: taking one costs a round trip and a pause per trial, and a truncated one looks
like a good one. A file here is published whole or not at all and carries a checksum; the generation before it stays
until the next one is complete, and reading falls back to it with a warning.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import pickle
import re
import stat
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyarrow import fs as pafs

from raytune_rl.files import replacing

logger = logging.getLogger(__name__)

MAGIC = b"raytune_rl state"
VERSION = 2
"""Raised whenever a class that a state holds is renamed, moved or changed: pickles name classes by their modules."""
GENERATIONS = 2

_HEADER = struct.Struct(f"<{len(MAGIC)}sHI32s")  # magic, version, number of frames, SHA-256 of everything after it
_FRAME = struct.Struct("<Q")
_NAME = re.compile(r"state-(\d{8,})\.bin")


class CorruptState(ValueError):
    """The file is not a complete state file."""


class OtherVersion(ValueError):
    """The file was written by another version of this package, which alone can read it."""


def refuse_foreign(directory: str | os.PathLike[str]) -> None:
    """Raise ``PermissionError`` if another user could have put a file into a local directory.

    To be called before anything in it is unpickled, because a pickle runs code. A directory that does not exist passes,
    and so does anything but a local path (there the store's own permissions must suffice).
    """
    path = Path(directory)
    if "://" in str(directory) or not path.exists():
        return
    for place in (path, *path.iterdir()) if path.is_dir() else (path,):
        status = place.stat()
        if status.st_uid != os.getuid():
            raise PermissionError(f"{place} belongs to another user; resuming reads pickles, so use a run of your own.")
        if stat.S_IMODE(status.st_mode) & 0o022:
            raise PermissionError(
                f"{place} can be written by other users; resuming reads pickles, so run `chmod go-w {place}` first "
                "if you trust what is in it."
            )


def encode(value: Any) -> list[bytes | memoryview]:
    """``value`` as the pieces of a state file. Large arrays are referenced, not copied."""
    buffers: list[pickle.PickleBuffer] = []
    frames: list[bytes | memoryview] = [pickle.dumps(value, protocol=5, buffer_callback=buffers.append)]
    frames += [buffer.raw() for buffer in buffers]
    pieces: list[bytes | memoryview] = []
    for frame in frames:
        pieces += [_FRAME.pack(len(frame)), frame]
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return [_HEADER.pack(MAGIC, VERSION, len(frames), digest.digest()), *pieces]


def decode(data: bytearray) -> Any:
    """The value in a state file's bytes. Arrays come back writable and keep ``data`` alive.

    Raises:
        CorruptState: they are truncated or changed.
        OtherVersion: this package cannot read them.
    """
    view = memoryview(data)
    count, checksum = _read_header(view)
    if hashlib.sha256(view[_HEADER.size :]).digest() != checksum:
        raise CorruptState("its checksum does not match (truncated or changed)")
    frames, at = [], _HEADER.size
    for _ in range(count):
        (length,) = _FRAME.unpack(view[at : at + _FRAME.size])
        at += _FRAME.size
        frames.append(view[at : at + length])
        at += length
    return pickle.loads(frames[0], buffers=frames[1:])


def _read_header(data: memoryview) -> tuple[int, bytes]:
    """The number of frames and the checksum that a state file's first bytes tell. Raises as ``decode`` does."""
    if len(data) < _HEADER.size:
        raise CorruptState("it is shorter than its header")
    magic, version, count, checksum = _HEADER.unpack(data[: _HEADER.size])
    if magic != MAGIC:
        raise CorruptState("it is not a state file")
    if version != VERSION:
        raise OtherVersion(
            f"the run's state was written by another version of raytune_rl (its format is {version}, that of this one "
            f"{VERSION}); finish the run with that version, or start it anew"
        )
    return count, checksum


class StateStore:
    """The state files of one owner, in a directory of their own.

    Args:
        uri: a local path, or any URI that ``pyarrow.fs`` reads (``s3://…``, ``gs://…``).
        filesystem: if given, ``uri`` is a path in it (Tune's own, say).
    """

    def __init__(self, uri: str, filesystem: pafs.FileSystem | None = None) -> None:
        self.uri = uri
        self._fs: pafs.FileSystem
        self._root: str
        if filesystem is None:
            self.local = "://" not in uri or uri.startswith("file://")
        else:
            self.local = isinstance(filesystem, pafs.LocalFileSystem)
        if filesystem is not None and not self.local:
            self._fs, self._root = filesystem, uri
        elif self.local:
            self._fs = pafs.LocalFileSystem()
            self._root = os.path.abspath(uri.removeprefix("file://"))
        else:
            self._fs, self._root = pafs.FileSystem.from_uri(uri)
        self._unreadable: set[int] = set()

    def save(self, value: Any) -> bool:
        """Publish a new generation and delete all but the two newest readable ones.

        Returns False, with a warning, if the storage refuses (disk full): the earlier generations are untouched, and
        training can go on.
        """
        try:
            generations = self.generations()
            newest = max(generations, default=0) + 1
            self._write(f"state-{newest:08d}.bin", encode(value))
            good = [n for n in (*generations, newest) if n not in self._unreadable]
            for n in {*generations} - {*good[-GENERATIONS:]}:
                self._delete(f"state-{n:08d}.bin")
        except OSError as error:
            logger.warning("cannot save the state in %s (%s); the one before is kept and training goes on", self, error)
            return False
        return True

    def load(self) -> Any | None:
        """The newest valid generation, or ``None``.

        Raises ``PermissionError`` if another user could have written it.
        """
        if self.local:
            refuse_foreign(self._root)
        for n in reversed(self.generations()):
            try:
                return decode(self._read(f"state-{n:08d}.bin"))
            except (CorruptState, OSError, pickle.UnpicklingError, EOFError) as error:
                self._unreadable.add(n)
                logger.warning("%s/state-%08d.bin cannot be used: %s; trying the one before", self, n, error)
        return None

    def check_version(self) -> None:
        """Raise ``OtherVersion`` if another version wrote the newest generation. Reads no more than its header; whether
        the rest is good shows when it is loaded."""
        newest = max(self.generations(), default=None)
        if newest is not None:
            with self._fs.open_input_file(f"{self._root}/state-{newest:08d}.bin") as stream:
                header = memoryview(stream.read(_HEADER.size))
            with contextlib.suppress(CorruptState):
                _read_header(header)

    def generations(self) -> list[int]:
        """The numbers of the existing generations, oldest first."""
        names = (info.base_name for info in self._fs.get_file_info(pafs.FileSelector(self._root, allow_not_found=True)))
        return sorted(int(match[1]) for name in names if (match := _NAME.fullmatch(name)))

    def size(self) -> int:
        """Size of the newest generation in bytes; 0 if there is none."""
        newest = max(self.generations(), default=None)
        return 0 if newest is None else int(self._fs.get_file_info(f"{self._root}/state-{newest:08d}.bin").size)

    def path(self, name: str) -> Path | None:
        """The local path of a file beside the states; ``None`` if they are on remote storage."""
        return Path(self._root, name) if self.local else None

    def note(self, name: str, content: Mapping[str, Any]) -> None:
        """Publish a small JSON file beside the states."""
        self._write(name, [json.dumps(dict(content)).encode()])

    def take_note(self, name: str) -> dict[str, Any] | None:
        """Read a small JSON file and delete it; ``None`` if it is missing or unreadable."""
        try:
            content = json.loads(self._read(name))
            self._delete(name)
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) else None

    def __str__(self) -> str:
        return self.uri

    def _write(self, name: str, pieces: Sequence[bytes | memoryview]) -> None:
        # Owner-only, whatever the umask says: see refuse_foreign.
        if self.local:
            os.makedirs(self._root, mode=0o700, exist_ok=True)
            with replacing(f"{self._root}/{name}") as aside:
                descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                with open(descriptor, "wb", buffering=0) as file:
                    for piece in pieces:
                        _write_all(file, piece)
        else:
            # No temporary file is needed: an object store publishes an object when its upload is complete.
            self._fs.create_dir(self._root)
            with self._fs.open_output_stream(f"{self._root}/{name}") as stream:
                for piece in pieces:
                    stream.write(piece)

    def _read(self, name: str) -> bytearray:
        with self._fs.open_input_file(f"{self._root}/{name}") as stream:
            data = bytearray(stream.size())
            read = stream.readinto(data)
        return data[:read] if read < len(data) else data

    def _delete(self, name: str) -> None:
        self._fs.delete_file(f"{self._root}/{name}")


def _write_all(file: Any, piece: bytes | memoryview) -> None:
    """Write all of ``piece``. The file is unbuffered, so that a full disk fails here and not at ``close``; but then one
    ``write`` may write less than it is given (a signal, the 2 GiB limit)."""
    view = memoryview(piece).cast("B")
    while view:
        view = view[file.write(view) :]
