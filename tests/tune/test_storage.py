"""State files survive truncation, full disks and strangers."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from raytune_rl.tune import storage
from raytune_rl.tune.storage import CorruptState, OtherVersion, StateStore, decode, encode, refuse_foreign


def joined(value: object) -> bytearray:
    return bytearray(b"".join(bytes(piece) for piece in encode(value)))


def test_round_trip_with_arrays_that_can_be_written_to() -> None:
    value = {"a": np.arange(1000.0), "b": [np.zeros((2, 3), dtype=np.uint8), "text", None], "empty": np.zeros(0)}
    back = decode(joined(value))
    np.testing.assert_array_equal(back["a"], value["a"])
    assert back["b"][1:] == ["text", None] and back["empty"].shape == (0,)
    back["a"][0] = 7.0
    assert value["a"][0] == 0.0


@pytest.mark.parametrize("keep", [0, 10, 60, -1])
def test_truncation_is_seen(keep: int) -> None:
    with pytest.raises(CorruptState):
        decode(joined({"a": np.arange(1000)})[:keep])


def test_one_changed_byte_is_seen() -> None:
    data = joined({"a": np.arange(1000)})
    data[-5] ^= 1
    with pytest.raises(CorruptState, match="checksum"):
        decode(data)


def test_what_another_version_wrote_is_refused_and_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = StateStore(str(tmp_path / "store"))
    monkeypatch.setattr(storage, "VERSION", 1)
    store.save({})
    monkeypatch.setattr(storage, "VERSION", 2)
    with pytest.raises(OtherVersion, match="its format is 1, that of this one 2"):
        store.load()


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_two_generations_are_kept_and_nothing_else(tmp_path: Path, scheme: str) -> None:
    store = StateStore(f"{scheme}{tmp_path}/trial-0")
    assert store.load() is None
    for number in range(5):
        assert store.save({"number": number})
    assert sorted(os.listdir(tmp_path / "trial-0")) == ["state-00000004.bin", "state-00000005.bin"]
    assert StateStore(f"{tmp_path}/trial-0").load() == {"number": 4}


def test_other_file_systems_go_through_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = StateStore(str(tmp_path / "s"))
    monkeypatch.setattr(store, "local", False)
    for number in range(4):
        store.save({"number": np.full(10, number)})
    assert store.load()["number"].tolist() == [3] * 10
    assert len(os.listdir(tmp_path / "s")) == 2


def test_a_truncated_file_gives_the_generation_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = StateStore(str(tmp_path))
    store.save(1)
    store.save(2)
    os.truncate(tmp_path / "state-00000002.bin", 70)
    again = StateStore(str(tmp_path))
    with caplog.at_level(logging.WARNING):
        assert again.load() == 1
    assert "state-00000002.bin cannot be used" in caplog.text
    # The next save must not push the only good one out.
    again.save(3)
    assert again.generations() == [1, 3]
    assert StateStore(str(tmp_path)).load() == 3


def test_a_full_disk_keeps_what_is_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = StateStore(str(tmp_path))
    assert store.save("good")

    def full(file: object, piece: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING):
        patched.setattr(storage, "_write_all", full)
        assert not store.save("bad")
    assert "No space left" in caplog.text
    assert os.listdir(tmp_path) == ["state-00000001.bin"]
    assert store.load() == "good"
    assert store.save("later") and store.load() == "later"


def test_others_can_write_here_so_it_is_not_unpickled(tmp_path: Path) -> None:
    store = StateStore(str(tmp_path / "d"))
    store.save(1)
    assert oct((tmp_path / "d").stat().st_mode)[-3:] == "700"
    (tmp_path / "d" / "state-00000001.bin").chmod(0o620)
    with pytest.raises(PermissionError, match="chmod go-w"):
        store.load()
    (tmp_path / "d" / "state-00000001.bin").chmod(0o600)
    (tmp_path / "d").chmod(0o777)
    with pytest.raises(PermissionError, match="chmod go-w"):
        store.load()


def test_somebody_elses_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_foreign(tmp_path / "missing")
    refuse_foreign("s3://bucket/run")
    refuse_foreign(tmp_path)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(PermissionError, match="another user"):
        refuse_foreign(tmp_path)


def test_notes_are_taken_once(tmp_path: Path) -> None:
    store = StateStore(str(tmp_path))
    assert store.take_note("hung.json") is None
    store.note("hung.json", {"member": 3})
    assert store.take_note("hung.json") == {"member": 3}
    assert store.take_note("hung.json") is None
    (tmp_path / "hung.json").write_text("{")
    assert store.take_note("hung.json") is None


WRITER = """
import sys, numpy as np
from raytune_rl.tune.storage import StateStore
store = StateStore(sys.argv[1])
number = (store.load() or {"number": 0})["number"]
while True:
    number += 1
    assert store.save({"number": number, "weights": np.full(200_000, number)})
    print(number, flush=True)
"""


@pytest.mark.slow
def test_killed_at_any_moment_it_loads_the_last_or_the_one_before(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for _ in range(8):
        command = [sys.executable, "-c", WRITER, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            printed = int(writer.stdout.readline())
            time.sleep(rng.uniform(0.0, 0.05))
            writer.kill()
            printed = max([printed, *(int(line) for line in writer.stdout.read().split())])
        loaded = StateStore(str(tmp_path)).load()
        assert loaded["number"] in (printed, printed + 1)
        assert (loaded["weights"] == loaded["number"]).all()


def test_the_size_is_that_of_the_newest_generation(tmp_path: Path) -> None:
    store = StateStore(str(tmp_path / "store"))
    assert store.size() == 0
    store.save({"weights": np.zeros(1000)})
    first = store.size()
    store.save({"weights": np.zeros(5000)})
    assert first >= 8000 and store.size() >= 40_000
