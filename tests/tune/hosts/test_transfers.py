"""Weights that come from another trial."""

from __future__ import annotations

from pathlib import Path

import pytest

from raytune_rl.tune.hosts.transfers import FileTransfer
from tests.tune.hosts.test_slot import decide, slot, train
from tests.tune.hosts.test_state_files import write


def test_a_state_file_gives_newest_and_best_weights(tmp_path: Path) -> None:
    one = slot(1, lr=1.0)
    train(one)
    one.follow(decide(1, 1, -5.0))
    train(one)
    write(str(tmp_path), one)
    newest = FileTransfer(state_uri=str(tmp_path), member=1, kind="member", segment=1)
    assert newest.ready(1.0) and newest.get().state["score"] == -8.0
    best = FileTransfer(state_uri=str(tmp_path), member=1, kind="checkpoint", segment=1)
    assert best.ready() and best.get().state["score"] == 2.0


def test_who_can_wait_waits_for_the_file_but_not_for_ever(tmp_path: Path) -> None:
    transfer = FileTransfer(state_uri=str(tmp_path), member=1, kind="member", segment=0)
    assert transfer.ready(0.1)
    with pytest.raises(LookupError, match="no state of member 1"):
        transfer.get()
