"""The run directory: the names of its files, and how they are written and read.

All files of a run are written through ``RunDirectory``, which guarantees that files are replaced as a whole, that JSON
files and tables have a ``schema_version``, that files of a newer version are refused with one sentence, and that
nothing is written outside the directory.
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
"""The last three are run directories inside this one, for the further populations that a run trains."""

VERSION_KEY = b"schema_version"
"""The key of the schema version in the metadata of a parquet file."""

READERS = 4
"""The number of threads that read the files of a table."""

COLUMNS_AT_ONCE = 16
"""How many columns of a table are sorted and converted to pandas at a time."""


class SchemaError(ValueError):
    """This version cannot read a file of a run directory. The message is one sentence for the user."""


class RunDirectory:
    """The files of a run, in a local folder or behind any URI that ``pyarrow.fs`` opens.

    The constructor does not touch the storage; ``create`` starts a run, ``open`` opens an existing one.

    Args:
        location: path or URI, as in Ray's ``storage_path``.
        filesystem: opens ``location``; for storage that has no URI (Ray's ``storage_filesystem``).
    """

    def __init__(self, location: str | os.PathLike[str], filesystem: fs.FileSystem | None = None) -> None:
        self.location = os.fspath(location)
        self.store = open_store(location, filesystem)

    def __str__(self) -> str:
        return self.location

    def __repr__(self) -> str:
        return f"RunDirectory({self.location!r})"

    def inside(self, name: str) -> RunDirectory:
        """The run directory ``name`` inside this one, created if it does not exist."""
        nested = RunDirectory(self.uri(name))
        nested.make_directory("")
        return nested

    @property
    def local(self) -> Path | None:
        """The folder, if it is on this machine; else ``None``."""
        return Path(self.store.root) if isinstance(self.store, LocalStore) else None

    @property
    def finished(self) -> bool:
        """Whether the run is finished. The summary shows it, as it is written last."""
        return self.exists(SUMMARY)

    def check_unused(self) -> None:
        """Raise ``FileExistsError`` if the directory holds a run or other files."""
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
            FileExistsError: the directory already holds a run or other files.
            OSError: it cannot be created.
        """
        self.check_unused()
        self.store.make_directory("")
        return self

    def open(self) -> RunDirectory:
        """Check that there is a run here.

        Raises:
            FileNotFoundError: there is none.
            SchemaError: it was written by a newer version.
        """
        if not self.exists(EXPERIMENT):
            raise FileNotFoundError(f"{self} is not a run directory: it holds no {EXPERIMENT}.")
        self.read_json(EXPERIMENT)
        return self

    def uri(self, name: str) -> str:
        """Path or URI of ``name``, as a user can paste it."""
        return f"{self.location.rstrip('/')}/{_inside(name)}"

    def path(self, name: str) -> Path:
        """Local path of ``name``, for content that can only be written by path (models, the Algorithm's checkpoint).

        Raises:
            ValueError: the run directory is not local.
        """
        if self.local is None:
            raise ValueError(f"{self} is not a local directory, so {name} has no path on this machine.")
        return self.local / _inside(name)

    @contextlib.contextmanager
    def staging(self, name: str) -> Iterator[Path]:
        """A local folder for content that can only be written by path: ``name`` itself if the run directory is local,
        else a temporary folder that is copied to ``name`` afterwards."""
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
        """Sorted names in the directory, or in the folder ``name`` of it."""
        return list(self.store.names(_inside(name)))

    def exists(self, name: str) -> bool:
        return self.store.exists(_inside(name))

    def make_directory(self, name: str) -> None:
        self.store.make_directory(_inside(name))

    def read_bytes(self, name: str) -> bytes:
        return self.store.read(_inside(name))

    def write_bytes(self, name: str, content: Bytes, *, durable: bool = True) -> None:
        """Replace a file as a whole; see ``Store.write``."""
        self.store.write(_inside(name), content, durable=durable)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Replace a JSON file as a whole. Adds ``schema_version``; ``plain`` makes the content standard JSON."""
        stamped = plain({"schema_version": SCHEMA_VERSION, **content})
        self.write_bytes(name, (json.dumps(stamped, indent=2, allow_nan=False) + "\n").encode())

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON file, of this version or an older one.

        Raises:
            FileNotFoundError: there is no such file.
            SchemaError: it is newer than this version, damaged, or was not written by this package.
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
        """A table of the run, which may still be in progress. Same content as ``pd.read_parquet``, but ordered by
        member and segment.

        Raises:
            FileNotFoundError: there is no such table.
            SchemaError: it is newer than this version.
        """
        # readers of parquet ignore such names as well
        names = [part for part in self.names(name) if not part.startswith((".", "_"))]
        if not names:
            raise FileNotFoundError(f"{self.uri(name)} does not exist.")
        with ThreadPoolExecutor(READERS) as pool:
            parts = list(pool.map(lambda part: _read_part(self.read_bytes(f"{name}/{part}")), names))
        check_version(parquet_version(parts[0].schema.metadata), self.uri(name))
        table = pa.concat_tables(parts, promote_options="default")  # the first part has the columns of all parts
        del parts
        # Convert some columns at a time, and free each after its conversion: a large run should not be in memory as a
        # whole in several forms at once.
        order = pc.sort_indices(table, sort_keys=[("member", "ascending"), ("segment", "ascending")])
        frames = []
        while table.num_columns:
            columns = table.column_names[:COLUMNS_AT_ONCE]
            part, table = table.select(columns).take(order), table.drop_columns(columns)
            frames.append(part.to_pandas(split_blocks=True, self_destruct=True))
        return pd.concat(frames, axis="columns")


def _read_part(content: bytes) -> pa.Table:
    """One file of a table. Pyarrow's readers of a whole directory would keep more of it in memory than its values."""
    return pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)


def check_version(version: object, where: str) -> None:
    """Accept this version and older ones.

    Raises:
        SchemaError: ``version`` is newer, or is not a version.
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
    """``name``, normalised. Raises ``ValueError`` if it is outside the run directory: a run writes nowhere else."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{name!r} lies outside the run directory.")
    return "" if name in ("", ".") else str(path)
