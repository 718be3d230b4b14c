"""What other processes read from a trial's state file."""

from __future__ import annotations

from pathlib import Path

from raytune_rl.tune.hosts.slot import Slot
from raytune_rl.tune.hosts.state_files import read_snapshot, read_snapshots
from raytune_rl.tune.storage import StateStore
from tests.tune.hosts.test_slot import decide, settings, slot, train


def write(uri: str, *slots: Slot) -> None:
    StateStore(uri).save({"slots": {one.index: one.to_save() for one in slots}})


def test_the_newest_and_the_best_weights_are_read(tmp_path: Path) -> None:
    uri = str(tmp_path)
    assert read_snapshot(uri, 0) is None
    one = slot(0, lr=1.0)
    train(one)
    one.follow(decide(0, 1, -5.0))
    train(one)
    write(uri, one)
    newest, best = read_snapshot(uri, 0), read_snapshot(uri, 0, best=True)
    assert newest is not None and (newest.member, newest.segment, newest.state["score"]) == (0, 1, -8.0)
    assert best is not None and (best.member, best.segment, best.state["score"]) == (0, 0, 2.0)
    assert read_snapshot(uri, 9) is None


def test_all_that_a_trial_has_kept_is_read(tmp_path: Path) -> None:
    uri = str(tmp_path)
    assert read_snapshots(uri) == {"best": [], "final": [], "snapshot": []}
    slots = [slot(index, shared=settings(snapshot_every=2)) for index in (0, 1)]
    for one in slots:
        train(one), train(one), train(one)
    write(uri, *slots)
    snapshots = read_snapshots(uri)
    assert [(one.member, one.segment) for one in snapshots["final"]] == [(0, 2), (1, 2)]
    assert [(one.member, one.segment) for one in snapshots["best"]] == [(0, 2), (1, 2)]
    assert [(one.member, one.segment) for one in snapshots["snapshot"]] == [(0, 1), (1, 1)]
