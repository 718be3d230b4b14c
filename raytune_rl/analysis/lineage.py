"""Where weights came from: every segment's parent, the path that led to given weights, and what each copy gained.

Rows are those of ``segments.parquet``, ordered by member and segment; a row is referred to by its position. Everything
is vectorised, so that 256 members of 1,000 segments take a fraction of a second.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from raytune_rl.analysis.frames import improvement, sound_values
from raytune_rl.records import FLOOR, Mode

HORIZON = 3
"""After how many more segments a copy is judged again (fewer, if the next copy or the end comes first)."""

COPY_COLUMNS = (
    "segment", "receiver", "donor", "donor_segment", "kind", "value_before", "value_donor", "value_after", "gain",
    "segments_later", "value_later", "gain_later", "donor_later", "kept", "on_best_path",
)  # fmt: skip

Rows = NDArray[np.int64]


def find_rows(segments: pd.DataFrame, members: Rows, indices: Rows) -> Rows:
    """The row of each (member, segment); -1 if there is none."""
    if segments.empty:
        return np.full(len(members), -1, dtype=np.int64)
    codes = _codes(segments["member"].to_numpy(np.int64), segments["segment"].to_numpy(np.int64))
    wanted = _codes(members, indices)
    rows = np.minimum(np.searchsorted(codes, wanted), len(codes) - 1)
    return np.where((codes[rows] == wanted) & (indices >= 0), rows, -1).astype(np.int64)


def parents(segments: pd.DataFrame) -> Rows:
    """The row whose weights each row's training began with; -1 if the weights were new.

    Weights are new in a member's first segment, and after a failure without a state to go back to. They also count as
    new if the donor's row is missing from the table (overwritten after a crash).
    """
    members = segments["member"].to_numpy(np.int64)
    indices = segments["segment"].to_numpy(np.int64)
    previous = np.arange(len(segments), dtype=np.int64) - 1
    sound = (segments["status"] == "ok").to_numpy(dtype=bool)
    if len(segments):
        follows = (members[previous] == members) & (indices[previous] == indices - 1) & sound[previous]
        follows[0] = False
        previous = np.where(follows, previous, -1)
    copied = segments["copied_from"].notna().to_numpy(dtype=bool)
    donor = segments["copied_from"].fillna(-1).to_numpy(np.int64)
    donor_segment = segments["copied_segment"].fillna(-1).to_numpy(np.int64)
    return np.where(copied, find_rows(segments, donor, donor_segment), previous)


def founders(parent: Rows) -> Rows:
    """The row in which the weights of each row were new: the end of its chain of parents. (-1 for rows that are their
    own ancestors, which is only possible in a table with rows from before and after a crash.)"""
    root = np.where(parent >= 0, parent, np.arange(len(parent), dtype=np.int64))
    for _ in range(len(parent).bit_length()):  # each round doubles the number of steps back
        root = root[root]
    return np.where(parent[root] < 0, root, -1)


def path_to(parent: Rows, row: int) -> list[int]:
    """The rows in which the weights after ``row`` were trained, in training order."""
    path = [row]
    seen = {row}
    while (previous := int(parent[path[-1]])) >= 0 and previous not in seen:
        path.append(previous)
        seen.add(previous)
    return path[::-1]


def copy_table(
    segments: pd.DataFrame, decisions: pd.DataFrame, *, parent: Rows, best: list[int], metric: str, mode: Mode
) -> pd.DataFrame:
    """One row per copy; see ``Run.lineage``."""
    at = np.flatnonzero(segments["copied_from"].notna().to_numpy(dtype=bool)).astype(np.int64)
    rows = segments.iloc[at]
    values = np.append(sound_values(segments, metric), np.nan)  # so that row -1, "none", has the value NaN
    receiver = rows["member"].to_numpy(np.int64)
    donor = rows["copied_from"].to_numpy(np.int64)
    before = find_rows(segments, receiver, rows["segment"].to_numpy(np.int64) - 1)
    end = _ends(segments, at)
    later = np.minimum(at + HORIZON, end)
    source = parent[at]
    after_donor = np.where(source >= 0, source + 1 + later - at, -1)
    member = np.append(segments["member"].to_numpy(np.int64), -1)
    same = (after_donor >= 0) & (after_donor < len(segments))
    after_donor = np.where(same & (member[np.where(same, after_donor, -1)] == donor), after_donor, -1)
    table = pd.DataFrame(
        {
            "segment": rows["segment"].to_numpy(np.int64),
            "receiver": receiver,
            "donor": donor,
            "donor_segment": rows["copied_segment"].astype("Int64").array,
            "kind": _kinds(segments, decisions, rows, before),
            "value_before": values[before],
            "value_donor": values[source],
            "value_after": values[at],
            "gain": improvement(values[before], values[at], mode),
            "segments_later": later - at,
            "value_later": values[later],
            "gain_later": improvement(values[before], values[later], mode),
            "donor_later": values[after_donor],
            "kept": end - at + 1,
            "on_best_path": np.isin(at, best),
        },
        columns=list(COPY_COLUMNS),
    )
    return table.sort_values(["segment", "receiver"], ignore_index=True)


def _kinds(segments: pd.DataFrame, decisions: pd.DataFrame, rows: pd.DataFrame, before: Rows) -> pd.Series:
    """What led to each copy: the last decision that asked for one, as a copy may take place some segments after its
    decision."""
    own = (rows["copied_from"] == rows["member"]).to_numpy(dtype=bool)
    failed = np.append((segments["status"] != "ok").to_numpy(dtype=bool), False)[before]
    keys = pd.DataFrame({"member": rows["member"].to_numpy(), "segment": rows["segment"].to_numpy()})
    keys["order"] = np.arange(len(keys))
    asked = decisions.loc[decisions["source"] != "keep", ["member", "segment", "source"]].dropna(subset="source")
    if asked.empty:
        names = np.where(own, "own_best", "member")
    else:
        last_asked = pd.merge_asof(
            keys.sort_values("segment", kind="stable"),
            asked.sort_values("segment", kind="stable"),
            on="segment",
            by="member",
        ).sort_values("order")
        sources = last_asked["source"].to_numpy(dtype=object)
        fits = np.array(
            [isinstance(name, str) and (name in ("own_best", FLOOR)) == o for name, o in zip(sources, own, strict=True)]
        )
        # "incumbent" does not fit if the member holds the record itself: then it returns to its own best.
        names = np.where(fits, sources, np.where(own, "own_best", "member"))
    return pd.Series(np.where(own & failed, "restart", names), dtype="str")


def _ends(segments: pd.DataFrame, at: Rows) -> Rows:
    """For each copy, the last row before the next copy into the same member, or the member's last row."""
    members = segments["member"].to_numpy(np.int64)
    last_of_member = np.searchsorted(members, members[at], side="right") - 1
    following = np.append(at[1:], len(segments)) - 1
    ends: Rows = np.minimum(last_of_member, following).astype(np.int64)
    return ends


def _codes(members: Rows, indices: Rows) -> Rows:
    """One integer per (member, segment), in the same order."""
    codes: Rows = members * 2**32 + indices
    return codes
