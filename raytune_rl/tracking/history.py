"""What earlier sessions of a resumed run have trained, from its tables.

A killed driver takes what its trackers had not written yet along, but not the tables: what is missing in TensorBoard
and elsewhere is made up for when the run goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from raytune_rl.records import Report, Value
from raytune_rl.rundir.layout import DECISIONS, SEGMENTS, STATE, RunDirectory
from raytune_rl.tracking.results import Entry, result_of

NAME = f"{STATE}/tracking.json"


@dataclass(frozen=True, kw_only=True)
class Note:
    """What a session leaves for the next one.

    Attributes:
        group: the run's name among the trackers.
        written: by member, how many segments have been logged everywhere.
    """

    group: str
    written: Mapping[int, int] = field(default_factory=dict)


def write_note(directory: RunDirectory, note: Note) -> None:
    """Raises ``OSError`` where it cannot be written."""
    directory.make_directory(STATE)
    directory.write_json(NAME, {"group": note.group, "written": note.written})


def read_note(directory: RunDirectory) -> Note | None:
    """The note of the session before; ``None`` if the run has not been tracked yet."""
    if not directory.exists(NAME):
        return None
    content = directory.read_json(NAME)
    return Note(group=content["group"], written={int(m): count for m, count in content["written"].items()})


@dataclass(frozen=True, kw_only=True)
class History:
    """By member, what it had started with, and its segments that have not been logged, in order."""

    starts: Mapping[int, Mapping[str, Value]] = field(default_factory=dict)
    missing: dict[int, list[Entry]] = field(default_factory=dict)

    def before(self, entry: Entry) -> list[Entry]:
        """What is missing before a member's first entry of this session. Later ones are trained again."""
        return [earlier for earlier in self.missing.pop(entry.member, []) if earlier.iteration < entry.iteration]

    def rest(self) -> list[Entry]:
        """What is missing of members that have not trained any more."""
        entries: list[Entry] = []
        for member in sorted(self.missing):
            *earlier, last = self.missing.pop(member)
            entries += [*earlier, replace(last, over=True)]
        return entries


def read_history(directory: RunDirectory, written: Mapping[int, int]) -> History:
    """Read the tables.

    Args:
        directory: the run directory.
        written: by member, how many segments have been logged.
    """
    if not directory.names(SEGMENTS) or not directory.names(DECISIONS):
        return History()
    decisions = directory.read_table(DECISIONS)[["member", "segment", "reward", "policy_version"]]
    rows = directory.read_table(SEGMENTS).merge(decisions, on=["member", "segment"])
    first = rows[rows["segment"] == 0]
    starts = {int(row["member"]): _values(row, "hp/") for row in _records(first)}
    late = rows[rows["segment"] >= rows["member"].map(written).fillna(0)]
    missing: dict[int, list[Entry]] = {}
    for row in _records(late.sort_values(["member", "segment"])):
        missing.setdefault(int(row["member"]), []).append(_entry(row))
    return History(starts=starts, missing=missing)


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain values, without the empty cells."""
    plain = rows.astype(object).to_dict("records")
    return [{str(name): value for name, value in row.items() if not pd.isna(value)} for row in plain]


def _entry(row: Mapping[str, Any]) -> Entry:
    report = Report(
        member=row["member"],
        segment=row["segment"],
        steps=row["steps"],
        metrics=_values(row, "metric/"),
        hyperparameters=_values(row, "hp/"),
        seconds=row["seconds"],
        copied_from=row.get("copied_from"),
        copied_segment=row.get("copied_segment"),
    )
    result = result_of(report, reward=row["reward"], policy_version=row["policy_version"])
    return Entry(member=report.member, result=result, over=False)


def _values(row: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix)}
