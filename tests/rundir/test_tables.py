from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from raytune_rl.records import Source, Step
from raytune_rl.rundir import tables as tables_module
from raytune_rl.rundir.layout import DECISIONS, SEGMENTS, RunDirectory, SchemaError
from raytune_rl.rundir.tables import TableWriter
from tests.rundir.steps import ACTIONS, FEATURES, HYPERPARAMETERS, decision, report, step

TYPES = {"lr": pa.float64(), "layers": pa.int64(), "activation": pa.string(), "nesterov": pa.bool_()}
Open = Callable[..., TableWriter]


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "run").create()


@pytest.fixture
def writer(directory: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Opens a writer whose parts are full at ``rows``; a second one goes on with the first one's tables."""

    def opened(rows: int = 10, **changes: object) -> TableWriter:
        monkeypatch.setattr(tables_module, "PART_ROWS", rows)
        fields = {"hyperparameters": TYPES, "features": FEATURES, "actions": ACTIONS, **changes}
        return TableWriter(directory, **fields)  # type: ignore[arg-type]

    return opened


def read(directory: RunDirectory, name: str = SEGMENTS) -> pd.DataFrame:
    """As any user reads it."""
    return pd.read_parquet(directory.path(name))


def parts(directory: RunDirectory, name: str = SEGMENTS) -> list[int]:
    """Rows of each part."""
    return [pq.read_metadata(directory.path(f"{name}/{part}")).num_rows for part in directory.names(name)]


def test_the_columns_of_the_contract(directory: RunDirectory, writer: Open) -> None:
    tables = writer()
    tables.write(step(report(2, 0, 0.5, copied_from=1, copied_segment=4), report(1, 0, 0.25)))
    assert tables.flush()
    segments, decisions = read(directory), read(directory, DECISIONS)
    hyperparameters = [f"hp/{name}" for name in HYPERPARAMETERS]
    assert list(segments) == [
        *("member", "segment", "steps", "trial_id", "node", "seconds", "copied_from", "copied_segment", "status"),
        *hyperparameters,
        "metric/loss",
    ]
    assert list(decisions) == [
        *("member", "segment", "policy_version", "reward", "logp", "value", "source"),
        *("obs/progress", "obs/rank", "act/hp/lr", "act/source"),
    ]
    row = segments.iloc[0]
    assert list(row[:6]) == [2, 0, 10, "trial2", "here", 0.5]
    assert (row["copied_from"], row["copied_segment"], row["status"], row["metric/loss"]) == (1, 4, "ok", 0.5)
    assert {name: row[f"hp/{name}"] for name in HYPERPARAMETERS} == HYPERPARAMETERS
    assert segments["copied_from"].dtype == "Int64" and pd.isna(segments["copied_from"][1])
    row = decisions.iloc[0]
    assert (row["policy_version"], row["reward"], row["logp"], row["source"]) == (4, 0.1, -1.5, "keep")
    assert np.isnan(row["value"])
    assert list(row[7:]) == [0.25, 0.75, 3, 0]
    for name in (SEGMENTS, DECISIONS):
        for part in directory.names(name):
            assert pq.read_schema(directory.path(f"{name}/{part}")).metadata[b"schema_version"] == b"1"


def test_tables_can_be_read_before_the_first_row(directory: RunDirectory, writer: Open) -> None:
    writer()
    assert read(directory).empty and "hp/lr" in read(directory)
    assert read(directory, DECISIONS).empty and "obs/rank" in read(directory, DECISIONS)


def test_a_decision_without_a_policy_has_empty_cells(directory: RunDirectory, writer: Open) -> None:
    tables = writer()
    reports = (report(1, 0),)
    bare = decision(1, 0, observation=(), action=(), source=Source(kind="member", member=0, name="best"))
    tables.write(Step(reports=reports, opened=(bare,), rewards=(0.5,), decisions=(bare,), incumbent=None))
    assert tables.flush()
    decisions = read(directory, DECISIONS)
    assert list(decisions["member"]) == [1] and list(decisions["source"]) == ["best"]
    assert decisions[["obs/rank", "act/source"]].isna().all(axis=None)
    assert len(read(directory)) == 1


def test_parts_fill_up_and_the_tail_is_rewritten(directory: RunDirectory, writer: Open) -> None:
    tables = writer(rows=10)
    for segment in range(6):
        tables.write(step(*(report(member, segment) for member in range(4))))
        assert tables.flush()
        assert len(read(directory)) == 4 * (segment + 1)
    assert parts(directory) == [0, 10, 10, 4]


def test_a_flush_may_overflow_several_parts(directory: RunDirectory, writer: Open) -> None:
    tables = writer(rows=10)
    tables.write(step(*(report(member, 0) for member in range(35))))
    assert tables.flush()
    assert parts(directory) == [0, 10, 10, 10, 5]
    assert sorted(read(directory)["member"]) == list(range(35))


def test_a_repeated_segment_replaces_its_row_where_it_stands(directory: RunDirectory, writer: Open) -> None:
    tables = writer(rows=10)
    for segment in range(8):
        tables.write(step(*(report(member, segment, 1.0) for member in range(4))))
    assert tables.flush()
    for segment in range(1, 9):
        tables.write(step(report(2, segment, 2.0)))
    assert tables.flush()
    assert parts(directory) == [0, 10, 10, 10, 3]
    segments = read(directory)
    assert not segments.duplicated(["member", "segment"]).any()
    again = (segments["member"] == 2) & (segments["segment"] >= 1)
    assert ((segments["metric/loss"] == 2.0) == again).all()
    assert len(read(directory, DECISIONS)) == 33


def test_a_repeat_before_the_flush_replaces_the_row_too(directory: RunDirectory, writer: Open) -> None:
    tables = writer()
    tables.write(step(report(0, 0, 1.0)))
    tables.write(step(report(0, 0, 2.0)))
    assert tables.pending == 2
    assert tables.flush()
    assert list(read(directory)["metric/loss"]) == [2.0]


def test_metrics_may_appear_late_and_be_missing(directory: RunDirectory, writer: Open) -> None:
    tables = writer(rows=4)
    for segment in range(4):
        tables.write(step(report(0, segment, 0.5), report(1, segment, metrics={}, status="failed")))
        assert tables.flush()
    tables.write(step(report(0, 4, metrics={"loss": 0.1, "f1": 0.9}), report(1, 4, metrics={"odd": "text"})))
    assert tables.flush()
    segments = directory.read_table(SEGMENTS)
    pd.testing.assert_frame_equal(segments, read(directory).sort_values(["member", "segment"], ignore_index=True))
    assert list(segments)[-3:] == ["metric/loss", "metric/f1", "metric/odd"]
    assert (segments.dtypes.iloc[-3:] == "float64").all()
    assert list(segments["metric/f1"].notna()) == [False] * 4 + [True] + [False] * 5
    assert segments.loc[segments["member"] == 0, "metric/loss"].tolist() == [0.5] * 4 + [0.1]
    assert segments["metric/odd"].isna().all()
    # A row in an old part may need the new column as well.
    tables.write(step(report(0, 0, metrics={"loss": 0.2, "f1": 0.8})))
    assert tables.flush()
    assert read(directory).set_index(["member", "segment"])["metric/f1"][0, 0] == 0.8


def test_a_resumed_writer_goes_on(directory: RunDirectory, writer: Open) -> None:
    tables = writer(rows=10)
    for segment in range(6):
        tables.write(step(*(report(member, segment, 1.0) for member in range(4))))
    tables.write(step(report(0, 6, metrics={"loss": 1.0, "f1": 1.0})))
    assert tables.flush()
    again = writer(rows=10)
    for segment in range(5, 8):
        again.write(step(*(report(member, segment, 2.0) for member in range(4))))
    assert again.flush()
    segments = read(directory)
    assert len(segments) == 32 and not segments.duplicated(["member", "segment"]).any()
    assert ((segments["metric/loss"] == 2.0) == (segments["segment"] >= 5)).all()
    assert "metric/f1" in segments
    assert parts(directory) == [0, 10, 10, 10, 2]


def test_a_resume_with_full_parts_only(directory: RunDirectory, writer: Open) -> None:
    tables = writer(rows=4)
    tables.write(step(*(report(member, 0) for member in range(4))))
    assert tables.flush()
    again = writer(rows=4)
    again.write(step(report(0, 1)))
    assert again.flush()
    assert parts(directory) == [0, 4, 1]


def test_a_resume_with_other_hyperparameters(directory: RunDirectory, writer: Open) -> None:
    tables = writer()
    tables.write(step(report(0, 0)))
    assert tables.flush()
    again = writer(hyperparameters={"lr": pa.float64(), "momentum": pa.float64()})
    again.write(step(report(0, 1, hyperparameters={"lr": 0.5, "momentum": 0.9})))
    assert again.flush()
    segments = directory.read_table(SEGMENTS)
    assert segments["hp/layers"].tolist()[0] == 3 and pd.isna(segments["hp/layers"][1])
    assert segments["hp/momentum"].tolist()[1] == 0.9
    with pytest.raises(SchemaError, match=r"holds hp/lr as double, and the experiment now has it as string"):
        writer(hyperparameters={"lr": pa.string()})


def test_tables_of_a_newer_version_are_not_touched(
    directory: RunDirectory, writer: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as future:
        future.setattr("raytune_rl.rundir.schemas.SCHEMA_VERSION", 2)
        writer()
    with pytest.raises(SchemaError, match="newer raytune_rl"):
        writer()


def test_a_full_disk_loses_nothing(
    directory: RunDirectory, writer: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tables = writer(rows=10)
    tables.write(step(*(report(member, 0, 1.0) for member in range(8))))
    assert tables.flush()
    replace, calls = os.replace, 0

    def full(source: str, target: str) -> None:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise OSError(28, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as disk, caplog.at_level(logging.WARNING):
        disk.setattr(os, "replace", full)
        for segment in range(1, 4):
            tables.write(step(*(report(member, segment, 2.0) for member in range(8))))
            tables.write(step(report(0, 0, 3.0)))
            assert not tables.flush()
    assert [record.getMessage().split(" (")[0] for record in caplog.records] == ["The tables cannot be written"]
    assert tables.pending > 0
    assert not read(directory).duplicated(["member", "segment"]).any()
    assert tables.flush() and tables.pending == 0
    segments = directory.read_table(SEGMENTS)
    assert len(segments) == 32 and not segments.duplicated(["member", "segment"]).any()
    assert segments["metric/loss"][0] == 3.0
    assert len(read(directory, DECISIONS)) == 32
    assert not [name for name in directory.names(SEGMENTS) if name.startswith(".")]


def test_a_damaged_part_is_set_aside(directory: RunDirectory, writer: Open, caplog: pytest.LogCaptureFixture) -> None:
    tables = writer(rows=4)
    tables.write(step(*(report(member, 0) for member in range(10))))
    assert tables.flush()
    os.truncate(directory.path(f"{SEGMENTS}/part-000003.parquet"), 100)
    again = writer(rows=4)
    assert "part-000003.parquet is damaged" in caplog.text
    again.write(step(report(8, 0), report(9, 0)))
    assert again.flush()
    assert sorted(read(directory)["member"]) == list(range(10))


def test_object_stores_hold_the_same_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables_module, "PART_ROWS", 10)
    store = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    directory = RunDirectory("bucket/run", filesystem=store).create()
    for value in (1.0, 2.0):
        tables = TableWriter(directory, hyperparameters=TYPES, features=FEATURES, actions=ACTIONS)
        for segment in range(6):
            tables.write(step(*(report(member, segment, value) for member in range(4))))
            assert tables.flush()
    assert (directory.read_table(SEGMENTS)["metric/loss"] == 2.0).all()
    frame = pd.read_parquet(f"bucket/run/{SEGMENTS}", filesystem=store)
    assert len(frame) == 24 and not frame.duplicated(["member", "segment"]).any()


@pytest.mark.parametrize("seed", range(3))
def test_any_order_of_writes_rewinds_and_restarts(directory: RunDirectory, writer: Open, seed: int) -> None:
    """Against the plainest table there is: a dictionary."""
    rng = random.Random(seed)
    tables, expected = writer(rows=7), dict[tuple[int, int], float]()
    at = dict.fromkeys(range(5), 0)
    for number in range(150):
        member = rng.randrange(5)
        if rng.random() < 0.1:
            at[member] = rng.randint(0, at[member])
        tables.write(step(report(member, at[member], float(number))))
        expected[member, at[member]] = float(number)
        at[member] += rng.choice((1, 1, 1, 2))
        if rng.random() < 0.2:
            assert tables.flush()
            found = read(directory)
            keys = zip(found["member"], found["segment"], strict=True)
            assert dict(zip(keys, found["metric/loss"], strict=True)) == expected
            assert len(found) == len(expected)
            if rng.random() < 0.3:
                tables = writer(rows=7)
