from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from raytune_rl.analysis.lineage import COPY_COLUMNS, HORIZON, copy_table, find_rows, founders, parents, path_to
from raytune_rl.analysis.run import Run


def table(*rows: tuple[Any, ...]) -> pd.DataFrame:
    """Rows of (member, segment, copied_from, copied_segment, status, loss), in order."""
    columns = ["member", "segment", "copied_from", "copied_segment", "status", "metric/loss"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.astype({"copied_from": "Int64", "copied_segment": "Int64"})


OK = (None, None, "ok")
WORLD = table(
    (0, 0, *OK, 9.0),
    (0, 1, *OK, 8.0),
    (0, 2, 1, 1, "ok", 3.0),  # 2: a copy of member 1 after its segment 1
    (0, 3, None, None, "failed", np.nan),
    (0, 4, 0, 2, "ok", 2.5),  # 4: back to its own best after the failure
    (1, 0, *OK, 5.0),
    (1, 1, *OK, 4.0),
    (1, 2, *OK, 3.5),
    (1, 3, 0, 4, "ok", 2.0),  # 8: from a member that is further on than itself
    (1, 4, None, None, "diverged", np.nan),
    (1, 5, *OK, 6.0),  # 10: nothing to go back to, so it began anew
)


def test_every_segment_has_the_parent_whose_weights_it_began_with() -> None:
    assert parents(WORLD).tolist() == [-1, 0, 6, 2, 2, -1, 5, 6, 4, 8, -1]


def test_a_donor_that_is_not_in_the_table_leaves_new_weights() -> None:
    assert parents(table((0, 0, *OK, 1.0), (0, 1, 7, 3, "ok", 1.0), (0, 2, 0, -1, "ok", 1.0))).tolist() == [-1, -1, -1]


def test_a_gap_in_a_members_segments_is_not_bridged() -> None:
    assert parents(table((0, 0, *OK, 1.0), (0, 2, *OK, 1.0), (1, 3, *OK, 1.0))).tolist() == [-1, -1, -1]


def test_paths_and_founders_follow_the_weights() -> None:
    parent = parents(WORLD)
    assert path_to(parent, 8) == [5, 6, 2, 4, 8]
    assert path_to(parent, 1) == [0, 1]
    assert founders(parent).tolist() == [0, 0, 5, 5, 5, 5, 5, 5, 5, 5, 10]


def test_rows_that_are_their_own_ancestors_end() -> None:
    # A crash can leave a copy whose donor was trained again, from that very copy.
    circle = parents(table((0, 0, 1, 0, "ok", 1.0), (1, 0, 0, 0, "ok", 1.0)))
    assert founders(circle).tolist() == [-1, -1]
    assert path_to(circle, 0) == [1, 0]


def test_long_chains_are_followed_to_their_end() -> None:
    parent = np.arange(5000, dtype=np.int64) - 1
    assert (founders(parent) == 0).all()
    assert len(path_to(parent, 4999)) == 5000


def test_rows_are_found_by_member_and_segment() -> None:
    found = find_rows(WORLD, np.array([1, 1, 0, 9]), np.array([3, 99, -1, 0]))
    assert found.tolist() == [8, -1, -1, -1]
    assert find_rows(WORLD.iloc[:0], np.array([0]), np.array([0])).tolist() == [-1]


DECISIONS = pd.DataFrame(
    {"member": [0, 0, 1, 1], "segment": [2, 4, 2, 3], "source": ["second", "own_best", "incumbent", "keep"]}
)


def test_copies_tell_what_was_gained() -> None:
    copies = copy_table(WORLD, DECISIONS, parent=parents(WORLD), best=[5, 6, 2, 4, 8], metric="loss", mode="min")
    assert tuple(copies.columns) == COPY_COLUMNS
    first, late, restart = copies.to_dict("records")
    assert (first["segment"], first["receiver"], first["donor"], first["donor_segment"]) == (2, 0, 1, 1)
    assert first["kind"] == "second" and first["on_best_path"]
    assert (first["value_before"], first["value_donor"], first["value_after"], first["gain"]) == (8.0, 4.0, 3.0, 5.0)
    assert (first["segments_later"], first["kept"]) == (1, 2)  # up to the failure, before the next copy
    assert restart["kind"] == "restart" and restart["receiver"] == restart["donor"] == 0
    # It landed a segment after its decision.
    assert late["kind"] == "incumbent" and late["value_before"] == 3.5 and late["gain"] == 1.5


def test_a_copy_is_judged_against_the_donor_after_as_many_segments() -> None:
    rows = [(0, s, *OK, 10.0 - s) for s in range(6)] + [(1, 0, *OK, 20.0), (1, 1, *OK, 19.0)]
    rows += [(1, 2, 0, 1, "ok", 8.5)] + [(1, s, *OK, 10.0 - 1.5 * s) for s in range(3, 6)]
    world = table(*rows)
    copy = copy_table(world, DECISIONS.iloc[:0], parent=parents(world), best=[], metric="loss", mode="min").iloc[0]
    assert copy["segments_later"] == HORIZON == 3 and copy["kind"] == "member"
    assert copy["value_later"] == 10.0 - 1.5 * 5 and copy["gain_later"] == 19.0 - copy["value_later"]
    assert copy["donor_later"] == 10.0 - 5.0  # 1 + 1 + HORIZON segments after its start
    assert not copy["on_best_path"] and copy["kept"] == 4


@pytest.mark.parametrize("mode", ["min", "max"])
def test_gains_follow_the_metrics_direction(mode: Any) -> None:
    copies = copy_table(WORLD, DECISIONS, parent=parents(WORLD), best=[], metric="loss", mode=mode)
    assert copies["gain"].iloc[0] == (5.0 if mode == "min" else -5.0)


def test_no_copies_is_a_table_with_the_same_columns() -> None:
    empty = copy_table(WORLD.iloc[:2], DECISIONS, parent=parents(WORLD.iloc[:2]), best=[], metric="loss", mode="min")
    assert empty.empty and tuple(empty.columns) == COPY_COLUMNS
    full = copy_table(WORLD, DECISIONS, parent=parents(WORLD), best=[], metric="loss", mode="min")
    assert empty.dtypes.to_dict() == full.dtypes.to_dict()


def test_a_real_controllers_copies_are_all_there(run: Run) -> None:
    segments = run.segments
    assert len(run.lineage) == segments["copied_from"].notna().sum()
    assert set(run.lineage["kind"]) == {"best", "second", "restart"}
    # The path is what the weights went through: each leg follows on from the one before.
    path = run.best_path
    assert run.best is not None
    assert (path["member"].iloc[-1], path["segment"].iloc[-1]) == (run.best.member, run.best.segment)
    assert path["steps"].tolist() == [10 * (place + 1) for place in range(len(path))]
    for before, after in zip(path.to_dict("records"), path.to_dict("records")[1:], strict=False):
        donor = after["member"] if pd.isna(after["copied_from"]) else after["copied_from"]
        last = after["segment"] - 1 if pd.isna(after["copied_from"]) else after["copied_segment"]
        assert (before["member"], before["segment"]) == (donor, last)
    assert run.lineage["on_best_path"].sum() == path["copied_from"].notna().sum() > 0


def test_founders_shares_add_up(run: Run) -> None:
    shares = run.founders
    assert shares.index.tolist() == list(range(12))
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)
    assert (shares.iloc[0] == 1 / 8).all()
    assert shares.iloc[-1][run.best_path["member"].iloc[0]] > 1 / 8
