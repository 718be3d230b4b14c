"""The anytime curve: the best that had been reached, against what had been spent."""

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

    Of one run also the members' median and quartiles, and the random search that ran beside it; of several runs one
    line each.

    Args:
        runs: one run, or several with the same metric.
        ax: where to draw; a new figure if left out.
        by: what was spent: segments, or training seconds, of all members together.
    """
    ax = style.panel(ax)
    chosen = [runs] if isinstance(runs, Run) else list(runs)
    shown = _one(chosen[0], ax, by) if len(chosen) == 1 else _several(chosen, ax, by)
    values = np.concatenate([v[np.isfinite(v)] for v in shown]) if shown else np.array([])
    if not values.size:
        style.note(ax, f"no finite {chosen[0].metric} yet")
        return style.figure_of(ax)
    low, high = float(values.min()), float(values.max())
    if low > 0 and high / low > 5:
        style.logarithmic(ax, "y", low, high)
    else:
        style.linear(ax.yaxis)
    ax.set_xlabel("segments trained, all members" if by == "segments" else "training seconds, all members")
    ax.set_ylabel(f"{chosen[0].metric} ({'lower' if chosen[0].mode == 'min' else 'higher'} is better)")
    ax.set_xlim(left=0)
    if by == "segments":
        style.whole_numbers(ax.xaxis)
    style.linear(ax.xaxis)
    style.legend_above(ax)
    return style.figure_of(ax)


def _one(run: Run, ax: Axes, by: Spent) -> list[np.ndarray]:
    table = run.anytime
    x = _spent(table, by)
    several = bool((table["members"] > 1).any())
    shown = [table["best"].to_numpy()]
    if several:
        low, high = table["now_low"].to_numpy(), table["now_high"].to_numpy()
        ax.fill_between(x, low, high, color=SKY, alpha=0.3, linewidth=0, label="members, middle half")
        ax.plot(x, table["now_median"], color=SKY, linewidth=1.2, label="members, median")
        shown += [low, high]
    ax.plot(x, table["best"], color=BLUE, linewidth=2.2, label="best so far", drawstyle="steps-post")
    if run.baseline is not None:
        other = anytime_table(run.baseline, run.metric, run.mode)
        ax.plot(
            _spent(other, by),
            other["best"],
            color=VERMILLION,
            linestyle="--",
            linewidth=1.8,
            label="random search",
            drawstyle="steps-post",
        )
        shown.append(other["best"].to_numpy())
    if run.best is not None and len(table):
        reached = table["best"].to_numpy()
        place = int(np.argmax(reached == reached[-1]))
        ax.plot(x[place], reached[place], "o", color=INK, markersize=5, zorder=5)
    return shown


def _several(runs: Sequence[Run], ax: Axes, by: Spent) -> list[np.ndarray]:
    shown = []
    for place, (run, label) in enumerate(zip(runs, labels(runs), strict=True)):
        table = run.anytime
        ax.plot(
            _spent(table, by),
            table["best"],
            color=CYCLE[place % len(CYCLE)],
            linestyle=DASHES[place // len(CYCLE) % len(DASHES)],
            linewidth=1.8,
            label=style.safe(label),
            drawstyle="steps-post",
        )
        shown.append(table["best"].to_numpy())
    return shown


def _spent(table: pd.DataFrame, by: Spent) -> np.ndarray:
    return table["trained" if by == "segments" else "seconds"].to_numpy(dtype=float)
