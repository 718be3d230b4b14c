"""The run directory: the names of its files, and how they are written and read.

All that a run leaves behind goes through ``RunDirectory``, so that the promises are kept in one place: files are
replaced whole, every one carries a ``schema_version``, a newer one is refused in one sentence, and nothing is written
anywhere else.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from raytune_rl.records import SCHEMA_VERSION
from raytune_rl.rundir.plain import plain
from raytune_rl.rundir.store import Bytes, LocalStore, open_store

EXPERIMENT = "experiment.json"
SEGMENTS = "segments.parquet"
DECISIONS = "decisions.parquet"
SUMMARY = "summary.json"
LOG = "run.log"
REPORT = "report.html"
BEST = "best"
ENSEMBLE = "ensemble"
AGENT = "agent"
STATE = "state"
REFIT = "refit"
RANDOM_SEARCH = "random_search"
DEEP_ENSEMBLE = "deep_ensemble"
"""The last three are run directories inside this one: populations that a run trains beside its own."""

VERSION_KEY = b"schema_version"
"""Where a parquet file keeps its version: the key-value metadata of its schema."""

READERS = 4
"""Threads that read the files of a table."""

COLUMNS_AT_ONCE = 16
"""Of a table that is being read, how many columns are brought into order and become pandas' together."""


class SchemaError(ValueError):
    """A file of a run directory that this version cannot read. The message is one sentence for the user."""


class RunDirectory:
    """One run's files, in a local folder or behind any URI that ``pyarrow.fs`` opens.

    Building one touches nothing; ``create`` starts a run, ``open`` finds one.

    Args:
        location: path or URI, as Ray's ``storage_path``.
        filesystem: opens ``location``, for storages that a URI cannot name (Ray's ``storage_filesystem``).
    """

    def __init__(self, location: str | os.PathLike[str], filesystem: fs.FileSystem | None = None) -> None:
        self.location = os.fspath(location)
        self.store = open_store(location, filesystem)

    def __str__(self) -> str:
        return self.location

    def __repr__(self) -> str:
        return f"RunDirectory({self.location!r})"

    def inside(self, name: str) -> RunDirectory:
        """A run directory of its own inside this one, made if it is not there."""
        found = RunDirectory(self.uri(name))
        found.make_directory("")
        return found

    @property
    def local(self) -> Path | None:
        """The folder, where it is one on this machine."""
        return Path(self.store.root) if isinstance(self.store, LocalStore) else None

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end: the summary is the last file to be written."""
        return self.exists(SUMMARY)

    def check_unused(self) -> None:
        """Raise ``FileExistsError`` when the directory holds a run, or something else."""
        if self.exists(EXPERIMENT):
            raise FileExistsError(
                f"{self} already holds a run; continue it with --resume {self} or choose another --out."
            )
        if any(not name.startswith(".") for name in self.names()):
            raise FileExistsError(
                f"{self} is not empty; choose another --out, so that nothing of yours is overwritten."
            )

    def create(self) -> RunDirectory:
        """Start a run here.

        Raises:
            FileExistsError: the directory already holds a run, or something else.
            OSError: it cannot be made.
        """
        self.check_unused()
        self.store.make_directory("")
        return self

    def open(self) -> RunDirectory:
        """Find the run here.

        Raises:
            FileNotFoundError: there is none.
            SchemaError: it was written by a newer version.
        """
        if not self.exists(EXPERIMENT):
            raise FileNotFoundError(f"{self} is not a run directory: it holds no {EXPERIMENT}.")
        self.read_json(EXPERIMENT)
        return self

    def uri(self, name: str) -> str:
        """Path of ``name`` as a user can paste it."""
        return f"{self.location.rstrip('/')}/{_inside(name)}"

    def path(self, name: str) -> Path:
        """Local path of ``name``, for what can only be written by path (models, the Algorithm's checkpoint).

        Raises:
            ValueError: the run directory is not local.
        """
        if self.local is None:
            raise ValueError(f"{self} is not a local directory, so {name} has no path on this machine.")
        return self.local / _inside(name)

    @contextlib.contextmanager
    def staging(self, name: str) -> Iterator[Path]:
        """A local folder for what can only be written by path. It is ``name`` itself where the run directory is local,
        and is copied there afterwards where it is not."""
        if self.local is not None:
            yield self.path(name)
            return
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
            target = f"{self.store.root}/{_inside(name)}"
            fs.copy_files(
                folder, target, source_filesystem=fs.LocalFileSystem(), destination_filesystem=self.store.filesystem
            )

    def names(self, name: str = "") -> list[str]:
        """Sorted names in the directory or in one below it."""
        return list(self.store.names(_inside(name)))

    def exists(self, name: str) -> bool:
        return self.store.exists(_inside(name))

    def make_directory(self, name: str) -> None:
        self.store.make_directory(_inside(name))

    def read_bytes(self, name: str) -> bytes:
        return self.store.read(_inside(name))

    def write_bytes(self, name: str, content: Bytes, *, durable: bool = True) -> None:
        """Replace a file whole; see ``Store.write``."""
        self.store.write(_inside(name), content, durable=durable)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Replace a JSON file whole. ``schema_version`` is added; NaN becomes null; see ``plain`` for objects."""
        stamped = plain({"schema_version": SCHEMA_VERSION, **content})
        self.write_bytes(name, (json.dumps(stamped, indent=2, allow_nan=False) + "\n").encode())

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON file, of this version or an older one.

        Raises:
            FileNotFoundError: there is none.
            SchemaError: it is newer than this version, damaged, or not ours.
        """
        try:
            content = json.loads(self.read_bytes(name))
        except FileNotFoundError:
            raise FileNotFoundError(f"{self.uri(name)} does not exist.") from None
        except ValueError as error:
            raise SchemaError(f"{self.uri(name)} is damaged, it is no complete JSON ({error}).") from error
        version = content.get("schema_version") if isinstance(content, dict) else None
        check_version(version, self.uri(name))
        return dict(content)

    def read_table(self, name: str) -> pd.DataFrame:
        """A table of the run as it stands, also while the run is going on. Same content as ``pd.read_parquet``,
        ordered by member and segment.

        Raises:
            FileNotFoundError: there is none.
            SchemaError: it is newer than this version.
        """
        names = [part for part in self.names(name) if not part.startswith((".", "_"))]  # as readers of parquet do
        if not names:
            raise FileNotFoundError(f"{self.uri(name)} does not exist.")
        with ThreadPoolExecutor(READERS) as pool:
            parts = list(pool.map(lambda part: _read_part(self.read_bytes(f"{name}/{part}")), names))
        check_version(parquet_version(parts[0].schema.metadata), self.uri(name))
        table = pa.concat_tables(parts, promote_options="default")  # the first part knows the columns of all
        del parts
        # Some columns at a time, each freed as soon as it has become pandas': a large run must not be in memory whole
        # in all the forms between file and frame.
        order = pc.sort_indices(table, sort_keys=[("member", "ascending"), ("segment", "ascending")])
        frames = []
        while table.num_columns:
            columns = table.column_names[:COLUMNS_AT_ONCE]
            part, table = table.select(columns).take(order), table.drop_columns(columns)
            frames.append(part.to_pandas(split_blocks=True, self_destruct=True))
        return pd.concat(frames, axis="columns")


def _read_part(content: bytes) -> pa.Table:
    """One file of a table. Unlike a reader of the whole directory, this keeps nothing of a part but its values."""
    return pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)


def check_version(version: object, where: str) -> None:
    """Accept this version and older ones.

    Raises:
        SchemaError: ``version`` is newer, or no version at all.
    """
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise SchemaError(f"{where} has no schema_version, so it was not written by raytune_rl.")
    if version > SCHEMA_VERSION:
        raise SchemaError(
            f"{where} was written by a newer raytune_rl (schema_version {version}, this one reads up to "
            f"{SCHEMA_VERSION}); please upgrade."
        )


def parquet_version(metadata: Mapping[bytes, bytes] | None) -> int | None:
    """The schema_version in a parquet file's metadata; None if it has none."""
    text = (metadata or {}).get(VERSION_KEY, b"")
    return int(text) if text.isdigit() else None


def _inside(name: str) -> str:
    """``name``, if it stays inside the run directory: a run writes nowhere else."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{name!r} lies outside the run directory.")
    return "" if name in ("", ".") else str(path)
