from __future__ import annotations

import numpy as np
import pytest
from matplotlib.collections import LineCollection

from raytune_rl import BadInput
from raytune_rl.analysis import Run
from raytune_rl.analysis.plots import best_schedules, schedule


def test_every_member_is_a_line_and_every_copy_too(run: Run) -> None:
    (ax,) = schedule(run, "lr").axes
    members, copies = (c for c in ax.collections if isinstance(c, LineCollection))
    assert len(members.get_segments()) == 8
    first = run.segments[run.segments["member"] == 0]
    np.testing.assert_array_equal(members.get_segments()[0], first[["segment", "hp/lr"]])
    others = run.lineage[run.lineage["receiver"] != run.lineage["donor"]]
    assert len(copies.get_segments()) == len(others) > 0
    values = run.segments.set_index(["member", "segment"])["hp/lr"]
    copy = others.iloc[0]
    start, end = copies.get_segments()[0]
    assert start.tolist() == [copy["donor_segment"], values[copy["donor"], copy["donor_segment"]]]
    assert end.tolist() == [copy["segment"], values[copy["receiver"], copy["segment"]]]


def test_the_best_path_is_drawn(run: Run) -> None:
    (ax,) = schedule(run, "dropout").axes
    np.testing.assert_array_equal(ax.lines[-1].get_xydata(), run.best_path[["segment", "hp/dropout"]])


def test_axes_lie_as_the_hyperparameters_do(run: Run) -> None:
    assert schedule(run, "lr").axes[0].get_yscale() == "log"
    assert schedule(run, "dropout").axes[0].get_yscale() == "linear"
    labels = [text.get_text() for text in schedule(run, "init").axes[0].get_yticklabels()]
    assert labels == ["kaiming", "orthogonal"]


def test_many_members_are_quantiles_and_shares(large: Run) -> None:
    (ax,) = schedule(large, "lr").axes
    median = ax.lines[0].get_xydata()
    expected = large.segments.groupby("segment")["hp/lr"].median()
    np.testing.assert_allclose(median[:, 1], expected)
    (ax,) = schedule(large, "init").axes
    assert ax.get_ylabel() == "init, % of members" and ax.get_ylim() == (0, 100)


def test_runs_schedules_side_by_side(run: Run, other: Run) -> None:
    (ax,) = best_schedules([run, other], ["a", "b"], "lr").axes
    assert [line.get_label() for line in ax.lines] == ["a", "b"]
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), other.best_path["hp/lr"])


def test_other_names_are_refused(run: Run) -> None:
    with pytest.raises(BadInput, match=r"no hyperparameter 'momentum'; it has lr, dropout"):
        schedule(run, "momentum")
