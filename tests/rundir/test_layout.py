from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from raytune_rl.records import SCHEMA_VERSION
from raytune_rl.rundir.layout import EXPERIMENT, SUMMARY, RunDirectory, SchemaError


@pytest.fixture(params=["local", "object store"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> RunDirectory:
    """A run directory of each kind. The object store is a local folder whose type ``pyarrow.fs`` hides from us."""
    if request.param == "local":
        return RunDirectory(tmp_path / "run").create()
    return RunDirectory("bucket/run", filesystem=fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())).create()


def test_json_comes_back_with_its_version(directory: RunDirectory) -> None:
    directory.write_json(EXPERIMENT, {"name": "digits", "seed": 3})
    assert directory.read_json(EXPERIMENT) == {"schema_version": SCHEMA_VERSION, "name": "digits", "seed": 3}


def test_a_file_is_replaced_whole(directory: RunDirectory) -> None:
    directory.write_json(SUMMARY, {"text": "x" * 1000})
    directory.write_json(SUMMARY, {"text": "y"})
    assert directory.read_json(SUMMARY)["text"] == "y"
    assert directory.names() == [SUMMARY]


def test_nan_is_null_for_every_json_reader(directory: RunDirectory) -> None:
    directory.write_json(SUMMARY, {"value": float("nan"), "worst": float("inf")})
    text = directory.read_bytes(SUMMARY).decode()
    assert json.loads(text, parse_constant=pytest.fail) == {"schema_version": 1, "value": None, "worst": None}


def test_a_newer_version_is_refused_in_one_sentence(directory: RunDirectory) -> None:
    directory.write_json(EXPERIMENT, {"schema_version": SCHEMA_VERSION + 1})
    with pytest.raises(SchemaError, match=r"newer raytune_rl \(schema_version 2, .* up to 1\); please upgrade\.$"):
        directory.open()


def test_an_older_version_is_read(directory: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    directory.write_json(EXPERIMENT, {"name": "digits"})
    monkeypatch.setattr("raytune_rl.rundir.layout.SCHEMA_VERSION", SCHEMA_VERSION + 5)
    assert directory.open().read_json(EXPERIMENT)["name"] == "digits"


@pytest.mark.parametrize(
    "content", [b"", b'{"schema_version": 1, "na', b"[1, 2]", b'{"name": "other tool"}', b"\xff\xfe"]
)
def test_damaged_or_foreign_json_is_refused(directory: RunDirectory, content: bytes) -> None:
    directory.write_bytes(SUMMARY, content)
    with pytest.raises(SchemaError, match=r"summary\.json"):
        directory.read_json(SUMMARY)


def test_create_and_open(directory: RunDirectory) -> None:
    with pytest.raises(FileNotFoundError, match=r"is not a run directory: it holds no experiment\.json"):
        directory.open()
    with pytest.raises(FileNotFoundError, match=r"summary\.json does not exist"):
        directory.read_json(SUMMARY)
    directory.write_json(EXPERIMENT, {})
    assert not directory.open().finished
    with pytest.raises(FileExistsError, match="already holds a run; continue it with --resume"):
        directory.create()
    directory.write_json(SUMMARY, {})
    assert directory.finished


def test_create_leaves_a_foreign_directory_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("important")
    with pytest.raises(FileExistsError, match="is not empty"):
        RunDirectory(tmp_path).create()


def test_nothing_is_written_outside(directory: RunDirectory) -> None:
    for name in ("../other.json", "/etc/passwd", "best/../../x"):
        with pytest.raises(ValueError, match="lies outside the run directory"):
            directory.write_json(name, {})


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = RunDirectory(tmp_path / "run").create()
    directory.write_json(SUMMARY, {"value": 1})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        directory.write_json(SUMMARY, {"value": 2})
    assert directory.read_json(SUMMARY)["value"] == 1
    assert os.listdir(tmp_path / "run") == [SUMMARY]


def test_others_cannot_write_into_it_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        RunDirectory(tmp_path / "run").create()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o755


def test_locations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert RunDirectory("results/a").local == tmp_path / "results/a"
    assert RunDirectory(f"file://{tmp_path}/b").local == tmp_path / "b"
    assert RunDirectory("results/a").path("best") == tmp_path / "results/a/best"
    assert RunDirectory("results/a/").uri("best") == "results/a/best"
    remote = RunDirectory("bucket/a", filesystem=fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()))
    assert remote.local is None
    with pytest.raises(ValueError, match="is not a local directory"):
        remote.path("best")
    with pytest.raises(ValueError, match="is not a storage location that pyarrow can open"):
        RunDirectory("nonsense://bucket/run")


def test_tables_of_a_newer_version_are_refused(directory: RunDirectory) -> None:
    directory.make_directory("segments.parquet")
    table = pa.table({"member": [0], "segment": [0]}).replace_schema_metadata({"schema_version": "2"})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    directory.write_bytes("segments.parquet/part-000000.parquet", sink.getvalue())
    with pytest.raises(SchemaError, match=r"segments\.parquet was written by a newer raytune_rl"):
        directory.read_table("segments.parquet")
    with pytest.raises(FileNotFoundError, match=r"decisions\.parquet does not exist"):
        directory.read_table("decisions.parquet")
