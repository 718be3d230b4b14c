"""The tables of a run, written while it is in progress and readable at any time.

A table is a directory of parquet files (parts), so that full parts need not be written again:

- ``part-000000`` has no rows. It has the columns of all parts, since readers of a directory use the columns of its
  first file for all files. A metric that appears late changes this file only.
- The *tail*, the part with the highest number, is replaced as a whole at each flush until it is full; then a new tail
  begins.
- A segment that a member trains again replaces its row in the same part. A row never moves to another part, so there is
  always exactly one of it, even if the writer is killed.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raytune_rl.files import is_aside
from raytune_rl.records import Step
from raytune_rl.rundir.layout import DECISIONS, SEGMENTS, RunDirectory, SchemaError, check_version, parquet_version
from raytune_rl.rundir.places import Places
from raytune_rl.rundir.schemas import (
    METRIC,
    decision_row,
    decisions_schema,
    metric_values,
    segment_row,
    segments_schema,
    stamped,
)

PART_ROWS = 8192
PART_CELLS = 250_000
"""Size of a full part: the number of rows, or fewer in wide tables, such that rewriting the tail takes milliseconds."""

Key: TypeAlias = tuple[int, int]
_PART = re.compile(r"part-(\d{6})\.parquet")
_log = logging.getLogger(__name__)


class TableWriter:
    """Writes ``segments.parquet`` and ``decisions.parquet`` from the controller's steps.

    If the directory has tables already (a resumed run), it continues them. Not thread-safe.

    Args:
        directory: the run directory; both tables exist when the constructor returns.
        hyperparameters: the type of each hyperparameter's column, see ``schemas.column_types``.
        features: names of the observation's features, in order (``ObservationSpec.features``).
        actions: names of the action's heads, in order.

    Raises:
        OSError: the directory cannot be written.
        SchemaError: its tables are newer than this version, or have other types in the same columns.
    """

    def __init__(
        self,
        directory: RunDirectory,
        *,
        hyperparameters: Mapping[str, pa.DataType],
        features: Sequence[str],
        actions: Sequence[str],
    ) -> None:
        self._hyperparameters = dict(hyperparameters)
        self._features = len(features)
        self._actions = len(actions)
        self._segments = PartTable(directory, SEGMENTS, segments_schema(hyperparameters))
        self._decisions = PartTable(directory, DECISIONS, decisions_schema(features, actions))
        self._failing = False

    @property
    def pending(self) -> int:
        """Rows that are not on the disk yet."""
        return self._segments.pending + self._decisions.pending

    def write(self, step: Step) -> None:
        """Add the rows of a step. They are not on the disk before ``flush``."""
        for report, opened, reward in zip(step.reports, step.opened, step.rewards, strict=True):
            self._segments.put(segment_row(report, self._hyperparameters), metric_values(report))
            row = decision_row(report, opened, reward, features=self._features, actions=self._actions)
            self._decisions.put(row)

    def flush(self) -> bool:
        """Write all rows to the disk. Returns False if that fails (disk full or gone); then the rows stay in memory for
        the next call, and a warning is logged once."""
        try:
            self._segments.flush()
            self._decisions.flush()
        except OSError as error:
            if not self._failing:
                _log.warning("The tables cannot be written (%s); %d rows wait in memory.", error, self.pending)
            self._failing = True
            return False
        if self._failing:
            _log.warning("The tables can be written again; no row was lost.")
        self._failing = False
        return True


class PartTable:
    """One table: a directory of parts with one row per (member, segment), its first two columns.

    Raises:
        OSError: the directory cannot be written.
        SchemaError: the stored parts do not fit ``schema``.
    """

    def __init__(self, directory: RunDirectory, name: str, schema: pa.Schema) -> None:
        self._directory = directory
        self._name = name
        self._head = tuple(schema.names)
        self._schema = schema
        self._part_rows = min(PART_ROWS, max(1, PART_CELLS // len(schema)))
        self._places = Places()
        self._pending: dict[Key, tuple[tuple[Any, ...], Mapping[str, Any]]] = {}
        self._tail_number = 1
        self._tail: pa.Table = schema.empty_table()
        directory.make_directory(name)
        self._open()

    @property
    def pending(self) -> int:
        """Rows that are not on the disk yet."""
        return len(self._pending)

    def put(self, row: tuple[Any, ...], metrics: Mapping[str, Any] | None = None) -> None:
        """Add a row, or replace that of the same member and segment.

        Args:
            row: values of the columns of the constructor's schema.
            metrics: values of further columns, by name.
        """
        self._pending[row[0], row[1]] = (row, metrics or {})

    def flush(self) -> None:
        """Write the rows to the disk.

        Raises:
            OSError: some rows could not be written; they stay pending.
        """
        if not self._pending:
            return
        self._widen()
        new: list[Key] = []
        known: dict[int, list[Key]] = {}
        for key in self._pending:
            part = self._places.find(*key)
            (new if part is None else known.setdefault(part, [])).append(key)
        for number in [number for number in known if number != self._tail_number]:
            self._publish(number, self._with_pending(self._read(number), known[number]))
            self._mark_written(known[number], number)
        self._extend_tail(known.get(self._tail_number, []), new)

    def _extend_tail(self, repeated: list[Key], new: list[Key]) -> None:
        """Write the tail with its repeated rows and the new ones, and further parts if it overflows."""
        while repeated or new:
            room = self._part_rows - self._tail.num_rows
            keys, new = repeated + new[:room], new[room:]
            if keys:
                tail = self._with_pending(self._tail, keys)
                self._publish(self._tail_number, tail)
                self._tail = tail
                self._mark_written(keys, self._tail_number)
            if self._tail.num_rows >= self._part_rows:
                self._tail_number, self._tail = self._tail_number + 1, self._schema.empty_table()
            repeated = []

    def _mark_written(self, keys: Iterable[Key], number: int) -> None:
        """Note that the pending rows ``keys`` are now on the disk, in this part."""
        for key in keys:
            del self._pending[key]
            self._places.add(*key, number)

    def _with_pending(self, table: pa.Table, keys: Sequence[Key]) -> pa.Table:
        """``table`` with the pending rows of ``keys``, which replace its rows of the same keys."""
        rows = [self._pending[key] for key in keys]
        head = dict(zip(self._head, zip(*(row for row, _ in rows), strict=True), strict=True))
        columns = []
        for field in self._schema:
            cells = head[field.name] if field.name in head else [metrics.get(field.name) for _, metrics in rows]
            columns.append(pa.array(cells, field.type))
        fresh = pa.Table.from_arrays(columns, schema=self._schema)
        if any(self._places.find(*key) is not None for key in keys):
            table = table.filter(pa.array(~np.isin(_codes(table), _codes(fresh))))
        return pa.concat_tables([_aligned(table, self._schema), fresh]).combine_chunks()

    def _widen(self) -> None:
        """Add columns for new metrics. They are written to the first part, for readers, before any row has them."""
        names = dict.fromkeys(name for _, metrics in self._pending.values() for name in metrics)
        missing = [name for name in names if name not in self._schema.names]
        if missing:
            schema = stamped(pa.schema([*self._schema, *((name, METRIC) for name in missing)]))
            self._write(0, schema.empty_table())
            self._schema = schema

    def _publish(self, number: int, table: pa.Table) -> None:
        # A full part is not written again, and a new one has no older version: both must survive a power cut.
        full_or_new = table.num_rows >= self._part_rows or (number == self._tail_number and not self._tail.num_rows)
        self._write(number, table, durable=full_or_new)

    def _write(self, number: int, table: pa.Table, *, durable: bool = True) -> None:
        texts = [field.name for field in table.schema if field.type == pa.string()]
        sink = pa.BufferOutputStream()
        # A tail is written many times, so statistics, and dictionaries of numbers, would cost more than they save.
        pq.write_table(table, sink, use_dictionary=texts or False, write_statistics=False, compression="snappy")
        self._directory.write_bytes(self._file(number), sink.getvalue(), durable=durable)

    def _read(self, number: int) -> pa.Table:
        return pq.read_table(pa.BufferReader(self._directory.read_bytes(self._file(number))))

    def _file(self, number: int) -> str:
        return f"{self._name}/part-{number:06d}.parquet"

    def _open(self) -> None:
        """Read the columns, keys and tail that an earlier writer left."""
        stored = self._schema
        for number in self._part_numbers():
            part = self._open_part(number)
            if part is None:
                continue
            stored = self._joint_schema(stored, part.schema_arrow)
            for member, segment in _sorted_keys(part.read(["member", "segment"])):
                if not self._places.add(member, segment, number):
                    _log.warning("%s holds member %d, segment %d twice.", self._name, member, segment)
            self._tail_number = max(self._tail_number, number)
        if self._places:
            self._tail = self._read(self._tail_number)
        self._schema = stamped(stored)
        if self._tail.num_rows >= self._part_rows:
            self._tail_number, self._tail = self._tail_number + 1, self._schema.empty_table()
        self._write(0, self._schema.empty_table())

    def _part_numbers(self) -> list[int]:
        """The numbers of the parts, ascending. Deletes temporary files that a killed writer has left."""
        names = self._directory.names(self._name)
        for name in filter(is_aside, names):
            self._directory.store.delete(f"{self._name}/{name}")
        return sorted(int(match[1]) for match in map(_PART.fullmatch, names) if match)

    def _open_part(self, number: int) -> pq.ParquetFile | None:
        """A stored part. If it is damaged (power cut, full disk), it is renamed so that readers ignore it, and None is
        returned."""
        file = self._file(number)
        try:
            part = pq.ParquetFile(pa.BufferReader(self._directory.read_bytes(file)))
        except pa.ArrowException as error:
            folder, name = file.rsplit("/", 1)
            self._directory.store.rename(file, f"{folder}/.damaged-{name}")
            _log.warning("%s is damaged (%s); it is set aside and its rows are lost.", self._directory.uri(file), error)
            return None
        check_version(parquet_version(part.schema_arrow.metadata), self._directory.uri(file))
        return part

    def _joint_schema(self, ours: pa.Schema, stored: pa.Schema) -> pa.Schema:
        """The columns of both schemas, ours first. Raises ``SchemaError`` if a common column differs in type."""
        for field in stored:
            if field.name in ours.names and ours.field(field.name).type != field.type:
                raise SchemaError(
                    f"{self._directory.uri(self._name)} holds {field.name} as {field.type}, and the experiment now has "
                    f"it as {ours.field(field.name).type}; a resumed run must keep it."
                )
        return pa.schema([*ours, *(field for field in stored if field.name not in ours.names)])


def _aligned(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """``table`` with exactly the columns of ``schema``; those that it lacks are empty."""
    present, wanted = set(table.schema.names), schema.names
    for name in wanted:
        if name not in present:
            table = table.append_column(schema.field(name), pa.nulls(table.num_rows, schema.field(name).type))
    return table.select(wanted).replace_schema_metadata(schema.metadata)


def _sorted_keys(table: pa.Table) -> Iterator[Key]:
    """(member, segment) of all rows, ascending."""
    keys = table.sort_by([("member", "ascending"), ("segment", "ascending")])
    return zip(keys["member"].to_numpy().tolist(), keys["segment"].to_numpy().tolist(), strict=True)


def _codes(table: pa.Table) -> np.ndarray:
    """One integer per (member, segment)."""
    return table["member"].to_numpy() * 2**32 + table["segment"].to_numpy()
