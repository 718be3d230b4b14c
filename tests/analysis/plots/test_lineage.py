from __future__ import annotations

import numpy as np
from matplotlib.collections import LineCollection

from raytune_rl.analysis import Run
from raytune_rl.analysis.plots import founders, gains, lineage
from raytune_rl.analysis.plots.style import BLUE, ORANGE


def test_copies_go_from_donor_to_receiver_in_the_colour_of_their_gain(other: Run) -> None:
    (ax,) = lineage(other).axes
    copies = other.lineage[other.lineage["receiver"] != other.lineage["donor"]]
    _, *collections = (c for c in ax.collections if isinstance(c, LineCollection))
    drawn = [(tuple(line.ravel()), c) for c in collections for line in c.get_segments()]
    assert len(drawn) == len(copies)
    expected = {
        (row.donor_segment, row.donor, row.segment, row.receiver): ORANGE if row.gain < 0 else BLUE
        for row in copies.itertuples()
    }
    assert {line for line, _ in drawn} == set(expected)


def test_failures_rollbacks_and_the_best_path_are_marked(run: Run) -> None:
    (ax,) = lineage(run).axes
    marks = {line.get_label(): line.get_xydata().tolist() for line in ax.lines}
    assert marks["went wrong"] == [[4, 1], [6, 2]]
    assert marks["back to own best"] == [[5, 1], [7, 2]]
    assert marks["best path"] == run.best_path[["segment", "member"]].to_numpy().tolist()


def test_a_crowd_is_shown_as_shares_of_founders(large: Run) -> None:
    (ax,) = lineage(large).axes
    assert ax.get_ylabel() == "% of members descending from"
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    shares = [float(text.rsplit(" ", 1)[1].rstrip("%")) for text in legend]
    np.testing.assert_allclose(sum(shares), 100, atol=len(shares))


def test_founders_of_a_small_population(run: Run) -> None:
    (ax,) = founders(run).axes
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    last = run.founders.iloc[-1]
    assert f"member {last.idxmax()}: {100 * last.max():.0f}%" in legend


def test_gains_are_in_percent_of_the_value_before(run: Run) -> None:
    (ax,) = gains(run).axes
    copies = run.lineage[run.lineage["receiver"] != run.lineage["donor"]]
    points = next(line for line in ax.lines if line.get_label() == "after the first segment")
    np.testing.assert_allclose(points.get_ydata(), 100 * copies["gain"] / copies["value_before"])
