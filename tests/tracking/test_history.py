"""What a killed session's trackers lack is found in its tables."""

from __future__ import annotations

from pathlib import Path

from raytune_rl.controller.policies import PBT
from raytune_rl.records import Step
from raytune_rl.rundir import RunDirectory, TableWriter, column_types
from raytune_rl.tracking.history import History, Note, read_history, read_note, write_note
from raytune_rl.tracking.results import Entry, entries_of
from tests.controller.worlds import Paper, make_controller


def write_tables(directory: RunDirectory) -> list[Step]:
    controller = make_controller(PBT())
    world = Paper(controller)
    tables = TableWriter(
        directory,
        hyperparameters=column_types(controller.space),
        features=controller.observation.features,
        actions=[head.name.removeprefix("hp/") for head in controller.actions.heads],
    )
    steps = [world.generation({2: {"copied_from": 0, "copied_segment": 1}} if i == 4 else {}) for i in range(6)]
    for step in steps:
        tables.write(step)
    tables.flush()
    return steps


def lasting(entry: Entry) -> dict[str, object]:
    """Without the time of logging."""
    return {name: value for name, value in entry.result.items() if name not in ("date", "timestamp")}


def test_what_is_missing_is_as_it_would_have_been_logged(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path).create()
    steps = write_tables(directory)
    history = read_history(directory, {0: 6, 1: 4, 2: 2})
    assert history.starts == {m: dict(steps[0].reports[m].hyperparameters) for m in range(4)}
    assert {m: [e.iteration for e in entries] for m, entries in history.missing.items()} == {
        1: [5, 6],
        2: [3, 4, 5, 6],
        3: [1, 2, 3, 4, 5, 6],
    }
    for member, entries in history.missing.items():
        for entry in entries:
            assert lasting(entry) == lasting(entries_of(steps[entry.iteration - 1])[member])
            assert not entry.over


def test_it_comes_before_what_the_member_trains_next(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path).create()
    steps = write_tables(directory)
    history = read_history(directory, {0: 6, 1: 4, 2: 2})
    fifth = entries_of(steps[4])  # segments 4 and 5 are trained again: they were newer than the saved state
    assert [e.iteration for e in history.before(fifth[0])] == []
    assert [e.iteration for e in history.before(fifth[2])] == [3, 4]
    assert history.before(fifth[2]) == []
    rest = history.rest()
    assert [(e.member, e.iteration) for e in rest] == [(1, 5), (1, 6), *((3, i) for i in range(1, 7))]
    assert [e.member for e in rest if e.over] == [1, 3]
    assert history.rest() == []


def test_a_new_run_has_no_history(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path).create()
    assert read_history(directory, {}) == History()
    assert read_note(directory) is None
    write_note(directory, Note(group="paper-0a1b2c3d", written={3: 7}))
    assert read_note(directory) == Note(group="paper-0a1b2c3d", written={3: 7})
