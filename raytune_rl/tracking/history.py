"""The segments that earlier sessions of a resumed run have trained, from its tables.

When a driver is killed, entries that its trackers have not written yet are lost, but the tables are not. So entries
that are missing in TensorBoard and elsewhere are logged when the run is resumed.
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
    """What a session stores for the next one.

    Attributes:
        group: the run's name in the trackers.
        written: by member, the number of segments that all callbacks have written.
    """

    group: str
    written: Mapping[int, int] = field(default_factory=dict)


def write_note(directory: RunDirectory, note: Note) -> None:
    """Store the note in the run directory. Raises ``OSError`` if that fails."""
    directory.make_directory(STATE)
    directory.write_json(NAME, {"group": note.group, "written": note.written})


def read_note(directory: RunDirectory) -> Note | None:
    """The note of the previous session; ``None`` if the run has not been tracked yet."""
    if not directory.exists(NAME):
        return None
    content = directory.read_json(NAME)
    return Note(group=content["group"], written={int(m): count for m, count in content["written"].items()})


@dataclass(frozen=True, kw_only=True)
class History:
    """Earlier sessions.

    Attributes:
        starts: the starting values of each member.
        missing: the segments of each member that have not been logged, in order.
    """

    starts: Mapping[int, Mapping[str, Value]] = field(default_factory=dict)
    missing: dict[int, list[Entry]] = field(default_factory=dict)

    def before(self, entry: Entry) -> list[Entry]:
        """The missing entries before ``entry``, if this is the member's first one in this session. Missing entries from
        there on are dropped, since those segments are trained again."""
        return [earlier for earlier in self.missing.pop(entry.member, []) if earlier.iteration < entry.iteration]

    def rest(self) -> list[Entry]:
        """The missing entries of members that have not trained in this session."""
        entries: list[Entry] = []
        for member in sorted(self.missing):
            *earlier, last = self.missing.pop(member)
            entries += [*earlier, replace(last, over=True)]
        return entries


def read_history(directory: RunDirectory, written: Mapping[int, int]) -> History:
    """Read the history from the tables.

    Args:
        directory: the run directory.
        written: by member, the number of segments that have been logged.
    """
    if not directory.names(SEGMENTS) or not directory.names(DECISIONS):
        return History()
    decisions = directory.read_table(DECISIONS)[["member", "segment", "reward", "policy_version"]]
    rows = directory.read_table(SEGMENTS).merge(decisions, on=["member", "segment"])
    first = rows[rows["segment"] == 0]
    starts = {int(row["member"]): _values(row, "hp/") for row in _records(first)}
    not_logged = rows[rows["segment"] >= rows["member"].map(written).fillna(0)]
    missing: dict[int, list[Entry]] = {}
    for row in _records(not_logged.sort_values(["member", "segment"])):
        missing.setdefault(int(row["member"]), []).append(_entry(row))
    return History(starts=starts, missing=missing)


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as mappings of Python values, without the empty cells."""
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
