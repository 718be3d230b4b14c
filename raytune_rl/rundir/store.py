"""Where the bytes of a run directory go: a local folder or an object store behind ``pyarrow.fs``.

One small seam, because the two publish differently. Locally a file is written aside and moved over the old one with
``os.replace``; an object store has no partial objects, so there the object is written directly. Either way a reader
sees the old content or the new, never a part of it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

import pyarrow as pa
from pyarrow import fs

from raytune_rl.files import replacing

Bytes: TypeAlias = bytes | pa.Buffer


class Store(Protocol):
    """Six calls on paths relative to the run directory. Every failure is an ``OSError``."""

    filesystem: fs.FileSystem
    root: str
    """The run directory's path within ``filesystem``."""

    def read(self, path: str) -> bytes: ...

    def write(self, path: str, content: Bytes, *, durable: bool = True) -> None:
        """Replace ``path`` by ``content``, all or nothing. ``durable`` waits for the disk: what a power cut must not
        take; a killed process takes nothing either way."""
        ...

    def exists(self, path: str) -> bool: ...

    def names(self, path: str) -> Sequence[str]:
        """Sorted names in a directory, those that readers ignore included; empty where there is none."""
        ...

    def make_directory(self, path: str) -> None: ...

    def rename(self, path: str, new: str) -> None: ...

    def delete(self, path: str) -> None: ...


class LocalStore:
    """A folder on this machine (or on a shared file system that is mounted here)."""

    def __init__(self, root: Path) -> None:
        self.filesystem = fs.LocalFileSystem()
        self.root = str(root)

    def _at(self, path: str) -> str:
        return os.path.join(self.root, path)

    def read(self, path: str) -> bytes:
        return Path(self._at(path)).read_bytes()

    def write(self, path: str, content: Bytes, *, durable: bool = True) -> None:
        with replacing(self._at(path)) as aside, open(aside, "wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())

    def exists(self, path: str) -> bool:
        return os.path.exists(self._at(path))

    def names(self, path: str) -> Sequence[str]:
        try:
            return sorted(os.listdir(self._at(path)))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def make_directory(self, path: str) -> None:
        # Not writable by others, whatever the umask: a run that others can write is refused on resume.
        os.makedirs(self._at(path), mode=0o755, exist_ok=True)

    def rename(self, path: str, new: str) -> None:
        os.replace(self._at(path), self._at(new))

    def delete(self, path: str) -> None:
        Path(self._at(path)).unlink(missing_ok=True)


class ObjectStore:
    """Anything else that ``pyarrow.fs`` reaches: S3, GCS, Azure, HDFS, fsspec."""

    def __init__(self, filesystem: fs.FileSystem, root: str) -> None:
        self.filesystem = filesystem
        self.root = root.rstrip("/")

    def _at(self, path: str) -> str:
        return f"{self.root}/{path}".strip("/") if path else self.root

    def read(self, path: str) -> bytes:
        with self.filesystem.open_input_stream(self._at(path)) as stream:
            content: bytes = stream.read()
        return content

    def write(self, path: str, content: Bytes, *, durable: bool = True) -> None:
        with self.filesystem.open_output_stream(self._at(path)) as stream:
            stream.write(content)

    def exists(self, path: str) -> bool:
        return bool(self.filesystem.get_file_info(self._at(path)).type != fs.FileType.NotFound)

    def names(self, path: str) -> Sequence[str]:
        selector = fs.FileSelector(self._at(path), allow_not_found=True)
        return sorted(entry.base_name for entry in self.filesystem.get_file_info(selector))

    def make_directory(self, path: str) -> None:
        self.filesystem.create_dir(self._at(path), recursive=True)

    def rename(self, path: str, new: str) -> None:
        self.filesystem.move(self._at(path), self._at(new))

    def delete(self, path: str) -> None:
        if self.exists(path):
            self.filesystem.delete_file(self._at(path))


def open_store(location: str | os.PathLike[str], filesystem: fs.FileSystem | None = None) -> Store:
    """The store behind a path or URI, as Ray's ``storage_path`` (and ``storage_filesystem``) take it.

    Raises:
        ValueError: a URI that ``pyarrow.fs`` does not know.
    """
    text = os.fspath(location)
    if filesystem is not None:
        if isinstance(filesystem, fs.LocalFileSystem):
            return LocalStore(Path(text).absolute())
        return ObjectStore(filesystem, text)
    if "://" not in text:
        return LocalStore(Path(text).expanduser().absolute())
    try:
        found, path = fs.FileSystem.from_uri(text)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"{text!r} is not a storage location that pyarrow can open: {error}.") from error
    return LocalStore(Path(path)) if isinstance(found, fs.LocalFileSystem) else ObjectStore(found, path)
