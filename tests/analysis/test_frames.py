from __future__ import annotations

import math

import numpy as np
import pandas as pd

from raytune_rl.analysis.frames import anytime, improvement, rank_members, sound_values
from raytune_rl.analysis.run import Run

SEGMENTS = pd.DataFrame(
    {
        "member": [0, 0, 0, 1, 1, 1],
        "segment": [0, 1, 2, 0, 1, 2],
        "seconds": [1.0] * 6,
        "status": ["ok", "ok", "failed", "ok", "diverged", "ok"],
        "metric/loss": [3.0, 2.0, 0.1, 4.0, math.nan, 5.0],
    }
)


def test_values_of_segments_that_went_wrong_do_not_count() -> None:
    np.testing.assert_array_equal(sound_values(SEGMENTS, "loss"), [3.0, 2.0, np.nan, 4.0, np.nan, 5.0])
    assert np.isnan(sound_values(SEGMENTS, "accuracy")).all()


def test_improvement_is_positive_when_better() -> None:
    before, after = np.array([2.0]), np.array([1.5])
    assert improvement(before, after, "min") == 0.5
    assert improvement(before, after, "max") == -0.5


def test_the_anytime_table_by_hand() -> None:
    table = anytime(SEGMENTS, "loss", "min")
    assert table["best"].tolist() == [3.0, 2.0, 2.0]
    assert table["now_best"].tolist() == [3.0, 2.0, 5.0]
    assert table["now_median"].tolist() == [3.5, 2.0, 5.0]
    assert table["members"].tolist() == [2, 1, 1]
    assert table["trained"].tolist() == [2, 4, 6]
    assert table["seconds"].tolist() == [2.0, 4.0, 6.0]
    assert anytime(SEGMENTS, "loss", "max")["best"].tolist() == [4.0, 4.0, 5.0]


def test_the_best_so_far_waits_for_a_first_value() -> None:
    late = SEGMENTS.assign(**{"metric/loss": [math.nan, 1.0, math.nan, math.nan, 2.0, 3.0], "status": "ok"})
    best = anytime(late, "loss", "min")["best"]
    assert math.isnan(best[0]) and best.tolist()[1:] == [1.0, 1.0]


def test_members_are_counted_as_the_table_says(run: Run) -> None:
    members, segments = run.members, run.segments
    assert members.index.tolist() == list(range(8))
    assert (members["segments"] == 12).all() and (members["steps"] == 120).all()
    assert members["failures"].to_dict() == {0: 0, 1: 1, 2: 1, 3: 0, 4: 0, 5: 0, 6: 0, 7: 0}
    copied = segments[segments["copied_from"].notna()]
    others = copied[copied["copied_from"] != copied["member"]]
    assert members["copies_taken"].sum() == members["copies_given"].sum() == len(others) > 0
    assert members["rollbacks"].sum() == len(copied) - len(others) == 2
    assert members["seconds"].sum() == segments["seconds"].sum()
    assert members["on_best_path"].sum() == len(run.best_path)
    for member, row in members.iterrows():
        own = segments[segments["member"] == member]
        sound = own["metric/loss"].where(own["status"] == "ok")
        assert row["best"] == sound.min() and row["best_segment"] == own.loc[sound.idxmin(), "segment"]
        assert (row["start/lr"], row["end/lr"]) == (own["hp/lr"].iloc[0], own["hp/lr"].iloc[-1])


def test_the_best_member_ranks_first(run: Run) -> None:
    assert run.best is not None
    ranked = rank_members(run.members, "min")
    assert ranked.index[0] == run.best.member and ranked["best"].is_monotonic_increasing
    assert rank_members(run.members, "max").index[0] == ranked.index[-1]
