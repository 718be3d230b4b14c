"""Two generations, written aside; whatever is damaged is passed over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raytune_rl.rllib import checkpoints


def _write(root: Path, text: str) -> Path:
    def fill(path: Path) -> None:
        (path / "deep").mkdir()
        (path / "deep" / "data.txt").write_text(text)

    return checkpoints.write(root, fill, {"text": text})


def test_the_newest_of_two_generations_is_read(tmp_path: Path) -> None:
    for text in "abc":
        last = _write(tmp_path, text)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000002", "000003"]
    found = checkpoints.newest(tmp_path)
    assert found is not None and found.path == last and found.record["text"] == "c"


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "record"])
def test_a_damaged_generation_gives_way_to_the_one_before(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    _write(tmp_path, "good old")
    last = _write(tmp_path, "new, but")
    data = last / "deep" / "data.txt"
    if damage == "truncated":
        data.write_text("new")
    elif damage == "flipped":
        data.write_text("new, bus")
    elif damage == "missing":
        data.unlink()
    else:
        (last / checkpoints.RECORD).write_text('{"files": {')
    found = checkpoints.newest(tmp_path)
    assert found is not None and found.record["text"] == "good old"
    assert "damaged or incomplete" in caplog.text


def test_a_write_that_fails_leaves_no_trace(tmp_path: Path) -> None:
    _write(tmp_path, "good")

    def full(path: Path) -> None:
        (path / "half").write_text("x")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="space"):
        checkpoints.write(tmp_path, full, {})
    assert [path.name for path in tmp_path.iterdir()] == ["000001"]


def test_nothing_and_the_future(tmp_path: Path) -> None:
    assert checkpoints.newest(tmp_path / "nowhere") is None
    path = _write(tmp_path, "x")
    record = json.loads((path / checkpoints.RECORD).read_text())
    (path / checkpoints.RECORD).write_text(json.dumps({**record, "schema_version": 99}))
    with pytest.raises(ValueError, match="schema version 99"):
        checkpoints.newest(tmp_path)
