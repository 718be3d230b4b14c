"""Tables computed from ``segments.parquet``: pure functions of frames that are ordered by member and segment."""

from __future__ import annotations

import numpy as np
import pandas as pd

from raytune_rl.records import Mode

HYPERPARAMETER = "hp/"
METRIC = "metric/"


def names_under(frame: pd.DataFrame, prefix: str) -> tuple[str, ...]:
    """The names of the columns that begin with ``prefix``, without it, in order."""
    return tuple(str(column).removeprefix(prefix) for column in frame.columns if str(column).startswith(prefix))


def sound_values(segments: pd.DataFrame, metric: str) -> np.ndarray:
    """The metric of each row, float64; NaN if the segment failed, hung or diverged, or did not report it."""
    column = METRIC + metric
    if column not in segments:
        return np.full(len(segments), np.nan)
    values = segments[column].to_numpy(dtype=float, na_value=np.nan)
    sound = np.isfinite(values) & (segments["status"] == "ok").to_numpy(dtype=bool)
    return np.where(sound, values, np.nan)


def improvement(before: np.ndarray, after: np.ndarray, mode: Mode) -> np.ndarray:
    """How much better ``after`` is, in the metric's units; positive means better in either mode."""
    return before - after if mode == "min" else after - before


def anytime(segments: pd.DataFrame, metric: str, mode: Mode) -> pd.DataFrame:
    """What the whole population had reached after each segment.

    Returns:
        One row per segment index (from 0, the index of the frame): ``trained`` and ``seconds``, the segments and
        training seconds of all members together up to and including this index; ``best``, the best value so far;
        ``now_best``, ``now_low``, ``now_median``, ``now_high``, the best value and the quartiles over the members in
        this segment; ``members``, the number of members with a finite value in it.
    """
    values = pd.Series(sound_values(segments, metric), index=segments.index)
    values_by_segment = values.groupby(segments["segment"])
    quartiles = [values_by_segment.quantile(share) for share in (0.25, 0.5, 0.75)]
    now = values_by_segment.min() if mode == "min" else values_by_segment.max()
    best = now.cummin() if mode == "min" else now.cummax()
    by_segment = segments.groupby("segment")
    return pd.DataFrame(
        {
            "trained": by_segment.size().cumsum(),
            "seconds": by_segment["seconds"].sum().cumsum(),
            "best": best.ffill(),
            "now_best": now,
            "now_low": quartiles[0],
            "now_median": quartiles[1],
            "now_high": quartiles[2],
            "members": values_by_segment.count(),
        }
    )


def member_table(
    segments: pd.DataFrame, copies: pd.DataFrame, path: pd.DataFrame, metric: str, mode: Mode
) -> pd.DataFrame:
    """One row per member; see ``Run.members``."""
    values = pd.Series(sound_values(segments, metric), index=segments.index)
    by_member = segments.groupby("member")
    values_by_member = values.groupby(segments["member"])
    rows = by_member.size().to_frame("segments")
    rows["steps"] = by_member["steps"].max()
    rows["seconds"] = by_member["seconds"].sum()
    rows["failures"] = (segments["status"] != "ok").groupby(segments["member"]).sum()
    rows["first"] = values_by_member.first()
    rows["last"] = values_by_member.last()
    sound = values.dropna().groupby(segments["member"])
    best_rows = (sound.idxmin() if mode == "min" else sound.idxmax()).reindex(rows.index)  # NaN: no sound value
    rows["best"] = values.reindex(best_rows.to_numpy()).to_numpy()
    rows["best_segment"] = segments["segment"].reindex(best_rows.to_numpy()).astype("Int64").array
    between_members = copies[copies["receiver"] != copies["donor"]]
    for name, side in (("copies_taken", between_members["receiver"]), ("copies_given", between_members["donor"])):
        rows[name] = side.value_counts().reindex(rows.index, fill_value=0).astype("int64")
    rows["rollbacks"] = (
        copies["receiver"][copies["receiver"] == copies["donor"]].value_counts().reindex(rows.index, fill_value=0)
    )
    rows["on_best_path"] = path["member"].value_counts().reindex(rows.index, fill_value=0).astype("int64")
    hyperparameters = [HYPERPARAMETER + name for name in names_under(segments, HYPERPARAMETER)]
    ends = {"start/": by_member.head(1), "end/": by_member.tail(1)}
    for prefix, segment_rows in ends.items():
        for column in hyperparameters:
            rows[prefix + column.removeprefix(HYPERPARAMETER)] = segment_rows.set_index("member")[column]
    return rows


def rank_members(members: pd.DataFrame, mode: Mode) -> pd.DataFrame:
    """``members``, the best first; those without any finite value last."""
    return members.sort_values("best", ascending=mode == "min", na_position="last", kind="stable")
