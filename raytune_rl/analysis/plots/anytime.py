"""The anytime curve: the best value so far, against the budget spent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from raytune_rl.analysis.compare import labels
from raytune_rl.analysis.frames import anytime as anytime_table
from raytune_rl.analysis.plots import style
from raytune_rl.analysis.plots.style import BLUE, CYCLE, DASHES, INK, SKY, VERMILLION, styled
from raytune_rl.analysis.run import Run

Spent = Literal["segments", "seconds"]


@styled
def anytime(runs: Run | Sequence[Run], ax: Axes | None = None, *, by: Spent = "segments") -> Figure:
    """The best value so far, by validation.

    A single run is drawn with its members' median and quartiles, and with the random search that it was compared with;
    several runs get one line each.

    Args:
        runs: one run, or several with the same metric.
        ax: where to draw; a new figure if left out.
        by: the unit of the budget, segments or training seconds, summed over all members.
    """
    ax = style.panel(ax)
    drawn = [runs] if isinstance(runs, Run) else list(runs)
    curves = _draw_run(drawn[0], ax, by) if len(drawn) == 1 else _draw_runs(drawn, ax, by)
    values = np.concatenate([curve[np.isfinite(curve)] for curve in curves]) if curves else np.array([])
    if not values.size:
        style.note(ax, f"no finite {drawn[0].metric} yet")
        return style.figure_of(ax)
    low, high = float(values.min()), float(values.max())
    if low > 0 and high / low > 5:
        style.logarithmic(ax, "y", low, high)
    else:
        style.linear(ax.yaxis)
    ax.set_xlabel("segments trained, all members" if by == "segments" else "training seconds, all members")
    ax.set_ylabel(f"{drawn[0].metric} ({'lower' if drawn[0].mode == 'min' else 'higher'} is better)")
    ax.set_xlim(left=0)
    if by == "segments":
        style.whole_numbers(ax.xaxis)
    style.linear(ax.xaxis)
    style.legend_above(ax)
    return style.figure_of(ax)


def _draw_run(run: Run, ax: Axes, by: Spent) -> list[np.ndarray]:
    """Draw a single run. Returns the values that the y axis must cover."""
    table = run.anytime
    x = _spent(table, by)
    several_members = bool((table["members"] > 1).any())
    curves = [table["best"].to_numpy()]
    if several_members:
        low, high = table["now_low"].to_numpy(), table["now_high"].to_numpy()
        ax.fill_between(x, low, high, color=SKY, alpha=0.3, linewidth=0, label="members, middle half")
        ax.plot(x, table["now_median"], color=SKY, linewidth=1.2, label="members, median")
        curves += [low, high]
    ax.plot(x, table["best"], color=BLUE, linewidth=2.2, label="best so far", drawstyle="steps-post")
    if run.baseline is not None:
        baseline = anytime_table(run.baseline, run.metric, run.mode)
        ax.plot(
            _spent(baseline, by),
            baseline["best"],
            color=VERMILLION,
            linestyle="--",
            linewidth=1.8,
            label="random search",
            drawstyle="steps-post",
        )
        curves.append(baseline["best"].to_numpy())
    if run.best is not None and len(table):
        best = table["best"].to_numpy()
        first = int(np.argmax(best == best[-1]))
        ax.plot(x[first], best[first], "o", color=INK, markersize=5, zorder=5)
    return curves


def _draw_runs(runs: Sequence[Run], ax: Axes, by: Spent) -> list[np.ndarray]:
    """Draw a line per run. Returns the values that the y axis must cover."""
    curves = []
    for index, (run, label) in enumerate(zip(runs, labels(runs), strict=True)):
        table = run.anytime
        ax.plot(
            _spent(table, by),
            table["best"],
            color=CYCLE[index % len(CYCLE)],
            linestyle=DASHES[index // len(CYCLE) % len(DASHES)],
            linewidth=1.8,
            label=style.safe(label),
            drawstyle="steps-post",
        )
        curves.append(table["best"].to_numpy())
    return curves


def _spent(table: pd.DataFrame, by: Spent) -> np.ndarray:
    return table["trained" if by == "segments" else "seconds"].to_numpy(dtype=float)
