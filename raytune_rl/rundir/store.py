"""The storage of a run directory: a local folder, or an object store behind ``pyarrow.fs``.

The two replace files differently. A local file is written under another name and then moved over the old one with
``os.replace``. An object store never shows partial objects, so objects are written directly. In both cases a reader
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
    """Operations on paths relative to the run directory. They raise ``OSError`` if they fail."""

    filesystem: fs.FileSystem
    root: str
    """The run directory's path within ``filesystem``."""

    def read(self, path: str) -> bytes: ...

    def write(self, path: str, content: Bytes, *, durable: bool = True) -> None:
        """Replace the content of ``path``, completely or not at all. ``durable`` waits for the disk, so that the file
        survives a power cut; it survives the end of this process in any case."""
        ...

    def exists(self, path: str) -> bool: ...

    def names(self, path: str) -> Sequence[str]:
        """Sorted names in a directory, including those that readers ignore; empty if there is no such directory."""
        ...

    def make_directory(self, path: str) -> None: ...

    def rename(self, path: str, new: str) -> None: ...

    def delete(self, path: str) -> None: ...


class LocalStore:
    """A folder on this machine (or on a shared file system that is mounted here)."""

    def __init__(self, root: Path) -> None:
        self.filesystem = fs.LocalFileSystem()
        self.root = str(root)

    def _full(self, path: str) -> str:
        return os.path.join(self.root, path)

    def read(self, path: str) -> bytes:
        return Path(self._full(path)).read_bytes()

    def write(self, path: str, content: Bytes, *, durable: bool = True) -> None:
        with replacing(self._full(path)) as aside, open(aside, "wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())

    def exists(self, path: str) -> bool:
        return os.path.exists(self._full(path))

    def names(self, path: str) -> Sequence[str]:
        try:
            return sorted(os.listdir(self._full(path)))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def make_directory(self, path: str) -> None:
        # never writable by others, even if the umask allows it: resuming refuses a run that others can write to
        os.makedirs(self._full(path), mode=0o755, exist_ok=True)

    def rename(self, path: str, new: str) -> None:
        os.replace(self._full(path), self._full(new))

    def delete(self, path: str) -> None:
        Path(self._full(path)).unlink(missing_ok=True)


class ObjectStore:
    """Anything else that ``pyarrow.fs`` reaches: S3, GCS, Azure, HDFS, fsspec."""

    def __init__(self, filesystem: fs.FileSystem, root: str) -> None:
        self.filesystem = filesystem
        self.root = root.rstrip("/")

    def _full(self, path: str) -> str:
        return f"{self.root}/{path}".strip("/") if path else self.root

    def read(self, path: str) -> bytes:
        with self.filesystem.open_input_stream(self._full(path)) as stream:
            content: bytes = stream.read()
        return content

    def write(self, path: str, content: Bytes, *, durable: bool = True) -> None:
        with self.filesystem.open_output_stream(self._full(path)) as stream:
            stream.write(content)

    def exists(self, path: str) -> bool:
        return bool(self.filesystem.get_file_info(self._full(path)).type != fs.FileType.NotFound)

    def names(self, path: str) -> Sequence[str]:
        selector = fs.FileSelector(self._full(path), allow_not_found=True)
        return sorted(entry.base_name for entry in self.filesystem.get_file_info(selector))

    def make_directory(self, path: str) -> None:
        self.filesystem.create_dir(self._full(path), recursive=True)

    def rename(self, path: str, new: str) -> None:
        self.filesystem.move(self._full(path), self._full(new))

    def delete(self, path: str) -> None:
        if self.exists(path):
            self.filesystem.delete_file(self._full(path))


def open_store(location: str | os.PathLike[str], filesystem: fs.FileSystem | None = None) -> Store:
    """The store behind a path or URI, given as Ray's ``storage_path`` (and ``storage_filesystem``).

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
        opened, path = fs.FileSystem.from_uri(text)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"{text!r} is not a storage location that pyarrow can open: {error}.") from error
    return LocalStore(Path(path)) if isinstance(opened, fs.LocalFileSystem) else ObjectStore(opened, path)
