"""Who trained in a process that has died."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pyarrow import fs

from raytune_rl.tune.hosts.crash_marker import FILE, SIZE, Crash, CrashMarker
from raytune_rl.tune.storage import StateStore

DYING = """
import os, sys
from raytune_rl.tune.hosts.crash_marker import CrashMarker
from raytune_rl.tune.storage import StateStore
marker = CrashMarker(StateStore(sys.argv[1]), "now")
with marker.training(2, 4):
    pass
with marker.training(int(sys.argv[2]) if sys.argv[2] else None, 5):
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("member", [3, None])
def test_a_process_that_is_killed_leaves_word_of_what_it_was_at(tmp_path: Path, member: int | None) -> None:
    word = "" if member is None else str(member)
    killed = subprocess.run([sys.executable, "-c", DYING, str(tmp_path), word], check=False)
    assert killed.returncode == -9
    assert CrashMarker(StateStore(str(tmp_path)), "later").previous is None  # that driver has died with it
    assert CrashMarker(StateStore(str(tmp_path)), "now").previous == Crash(member=member, segment=5)


def test_between_segments_nobody_is_to_blame(tmp_path: Path) -> None:
    first = CrashMarker(StateStore(str(tmp_path)), "now")
    with pytest.raises(KeyError), first.training(1, 2):
        raise KeyError
    assert CrashMarker(StateStore(str(tmp_path)), "now").previous is None


def test_an_end_as_it_should_be_leaves_nothing(tmp_path: Path) -> None:
    marker = CrashMarker(StateStore(str(tmp_path)), "now")
    with marker.training(1, 2):
        assert (tmp_path / FILE).stat().st_size == SIZE
    marker.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"session": "now", "mem'])
def test_a_file_that_was_cut_short_blames_nobody(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    assert CrashMarker(StateStore(str(tmp_path)), "now").previous is None


def test_where_states_are_elsewhere_nobody_is_blamed(tmp_path: Path) -> None:
    remote = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    marker = CrashMarker(StateStore("state", remote), "now")
    with marker.training(1, 2):
        pass
    marker.close()
    assert marker.previous is None and list(tmp_path.iterdir()) == []
