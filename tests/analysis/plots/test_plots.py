"""What all plots promise: a figure, other people's axes and settings left alone, and any run drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from matplotlib.figure import Figure

from raytune_rl.analysis import Run, plots
from raytune_rl.analysis.svg import inline_svg
from tests.analysis.runs import write_run

ONE_AXES: list[Callable[..., Figure]] = [
    plots.anytime,
    plots.lineage,
    plots.founders,
    plots.gains,
    plots.influences,
    plots.strongest,
    plots.time,
    plots.segment_seconds,
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One member, one segment."""
    return Run.load(write_run(tmp_path_factory.mktemp("runs") / "tiny", population=1, segments=1))


def drawn(figure: Figure) -> str:
    return inline_svg(figure, key="a", label="x")


@pytest.mark.parametrize("plot", [*ONE_AXES, plots.schedules], ids=lambda plot: plot.__name__)
def test_every_run_can_be_drawn(plot: Callable[..., Figure], run: Run, large: Run, tiny: Run) -> None:
    nothing = replace(run, segments=run.segments.iloc[:0], decisions=run.decisions.iloc[:0], summary=None)
    failed = replace(run, segments=run.segments.assign(status="failed"), summary=None)
    for each in (large, tiny, nothing, failed):
        assert drawn(plot(each)).startswith("<svg")


@pytest.mark.parametrize("plot", ONE_AXES, ids=lambda plot: plot.__name__)
def test_plots_draw_into_given_axes_and_change_no_setting(plot: Callable[..., Figure], run: Run) -> None:
    before = dict(matplotlib.rcParams)
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert plot(run, right) is figure
    assert right.has_data() and not left.has_data()
    assert dict(matplotlib.rcParams) == before


def test_all_schedules_go_into_given_axes(run: Run) -> None:
    figure = Figure()
    axes = figure.subplots(2, 2).ravel()
    assert plots.schedules(run, axes) is figure
    assert [ax.get_ylabel() for ax in axes] == ["lr (log scale)", "dropout", "batch_size", "init"]
    assert len(plots.schedules(run).axes) == 4


def test_pyplot_is_left_alone(run: Run) -> None:
    from matplotlib import pyplot

    plots.anytime(run)
    assert pyplot.get_fignums() == []


@pytest.mark.parametrize("name", ["$\\frac{1}{$ <b>&", "_学習率", "a" * 200])
def test_names_are_taken_as_they_are(run: Run, name: str) -> None:
    columns = {"hp/lr": f"hp/{name}", "metric/loss": f"metric/{name}"}
    fields: dict[str, Any] = {**run.fields, "metric": name}
    odd = replace(
        run,
        segments=run.segments.rename(columns=columns),
        baseline=None,
        summary=None,
        experiment={**run.experiment, "experiment": fields, "name": name},
    )
    assert name in plots.schedule(odd, name).axes[0].get_ylabel()
    assert name in plots.anytime(odd).axes[0].get_ylabel()
    for plot in (plots.schedules, plots.anytime, plots.gains):
        assert inline_svg(plot(odd), key="a", label=name)
    assert inline_svg(plots.best_schedules([odd], [name], name), key="a", label=name)


def test_metrics_below_zero_and_far_apart(run: Run) -> None:
    for change in (lambda v: v - 1.0, lambda v: v * 0.0, lambda v: v * 1e300):
        segments = run.segments.assign(**{"metric/loss": change(run.segments["metric/loss"])})
        strange = replace(run, segments=segments, summary=None, baseline=None)
        for plot in (plots.anytime, plots.gains):
            assert drawn(plot(strange))


def test_a_run_directory_without_decisions(tmp_path: Path, run: Run) -> None:
    without = replace(run, decisions=run.decisions[["member", "segment", "source"]].iloc[:0])
    for plot in (plots.influences, plots.strongest, plots.lineage):
        assert drawn(plot(without))
