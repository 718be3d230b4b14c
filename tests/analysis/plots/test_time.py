from __future__ import annotations

from dataclasses import replace

import pytest

from raytune_rl.analysis import Run
from raytune_rl.analysis.plots import segment_seconds, time


def test_training_and_the_rest_fill_the_wall_time(run: Run) -> None:
    (ax,) = time(run).axes
    assert run.summary is not None
    wall = run.summary["timing"]["wall_s"]
    for row, trial in enumerate(("trial-0", "trial-1")):
        bars = [bar for bar in ax.patches if round(bar.get_y() + bar.get_height() / 2) == row]
        assert len(bars) == 5  # four members and what is missing
        assert sum(bar.get_width() for bar in bars) == pytest.approx(wall)
        trained = run.segments.loc[run.segments["trial_id"] == trial, "seconds"].sum()
        assert sum(bar.get_width() for bar in bars[:4]) == pytest.approx(trained)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["trial-0", "trial-1"]


def test_trials_that_took_turns_are_one_bar(run: Run) -> None:
    shared = replace(run, segments=run.segments.assign(trial_id=run.segments["member"].astype(str)))
    (ax,) = time(shared).axes
    assert ax.get_xlabel() == "seconds, 2 slots together" and len(ax.get_yticks()) == 1
    assert run.summary is not None
    assert sum(bar.get_width() for bar in ax.patches) == pytest.approx(2 * run.summary["timing"]["wall_s"])


def test_seconds_per_segment(run: Run) -> None:
    (ax,) = segment_seconds(run).axes
    lines = {line.get_label(): line.get_ydata().tolist() for line in ax.lines}
    grouped = run.segments.groupby("segment")["seconds"]
    assert lines["median"] == grouped.median().tolist()
    assert lines["slowest member"] == grouped.max().tolist()
