from __future__ import annotations

import numpy as np

from raytune_rl.analysis import Run
from raytune_rl.analysis.plots import anytime


def lines(figure: object) -> dict[str, np.ndarray]:
    (ax,) = figure.axes  # type: ignore[attr-defined]
    return {line.get_label(): np.asarray(line.get_xydata()) for line in ax.lines}


def test_the_curves_are_the_tables(run: Run) -> None:
    drawn = lines(anytime(run))
    np.testing.assert_array_equal(drawn["best so far"], run.anytime[["trained", "best"]])
    np.testing.assert_array_equal(drawn["members, median"], run.anytime[["trained", "now_median"]])
    assert "random search" in drawn and drawn["random search"][-1, 0] == 96
    seconds = lines(anytime(run, by="seconds"))
    np.testing.assert_array_equal(seconds["best so far"], run.anytime[["seconds", "best"]])


def test_the_best_is_marked_where_it_was_reached(run: Run) -> None:
    (ax,) = anytime(run).axes
    (x, y) = ax.lines[-1].get_xydata()[0]
    assert run.best is not None
    assert (x, y) == (8 * (run.best.segment + 1), run.best.value)


def test_axes_have_units_and_a_log_scale_where_values_span_it(run: Run) -> None:
    (ax,) = anytime(run).axes
    assert ax.get_yscale() == "log"
    assert ax.get_ylabel() == "loss (lower is better)"
    assert ax.get_xlabel() == "segments trained, all members"


def test_several_runs_are_lines_with_names(run: Run, other: Run) -> None:
    drawn = lines(anytime([run, other]))
    assert list(drawn) == ["PBT(quantile=0.25)", "Random"]
    np.testing.assert_array_equal(drawn["Random"], other.anytime[["trained", "best"]])
