"""Where the time went."""

from __future__ import annotations

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from raytune_rl.analysis.plots import style
from raytune_rl.analysis.plots.style import BLUE, GREY, PALE, SKY, styled
from raytune_rl.analysis.run import Run

TRIALS = 16
"""More trials than this are drawn as one bar."""


@styled
def time(run: Run, ax: Axes | None = None) -> Figure:
    """The training seconds of each trial (its members in two shades), and the rest of the wall time: decisions, copies,
    saving, waiting for others.

    If trials took turns on fewer slots, or if there are many, a single bar shows the time of all slots together.
    """
    ax = style.panel(ax)
    seconds = run.segments.groupby(["trial_id", "member"], sort=False)["seconds"].sum()
    if seconds.empty or not seconds.sum() > 0:
        style.note(ax, "no training time yet")
        return style.figure_of(ax)
    trials = list(dict.fromkeys(seconds.index.get_level_values("trial_id")))
    wall, slots = _wall(run)
    if len(trials) > TRIALS or (slots is not None and len(trials) != slots):
        names, parts, total = (
            ["all slots"],
            [seconds.groupby("trial_id", sort=False).sum().to_numpy()],
            wall and wall * (slots or 1),
        )
        if len(trials) > TRIALS:
            parts = [np.array([float(seconds.sum())])]
    else:
        names, parts, total = trials, [seconds.loc[trial].to_numpy() for trial in trials], wall
    for row, lengths in enumerate(parts):
        starts = np.append(0.0, np.cumsum(lengths)[:-1])
        colours = [BLUE if index % 2 == 0 else SKY for index in range(len(lengths))]
        ax.barh([row] * len(lengths), lengths, left=starts, color=colours, height=0.6)
        if total is not None and total > lengths.sum():
            ax.barh(row, total - lengths.sum(), left=lengths.sum(), color=PALE, height=0.6)
    handles: list[Artist] = [Patch(color=BLUE, label="training, by member" if len(parts[0]) > 1 else "training")]
    if total is not None:
        handles.append(Patch(color=PALE, label="everything else"))
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.grid(visible=False, axis="y")
    ax.set_xlabel("seconds" if len(names) > 1 or slots in (None, 1) else f"seconds, {slots} slots together")
    style.linear(ax.xaxis)
    style.legend_above(ax, handles)
    return style.figure_of(ax)


@styled
def segment_seconds(run: Run, ax: Axes | None = None) -> Figure:
    """Training seconds of a member's segment over the run: median, middle half, and the slowest."""
    ax = style.panel(ax)
    rows = run.segments[run.segments["seconds"] > 0]
    if rows.empty:
        style.note(ax, "no training time yet")
        return style.figure_of(ax)
    grouped = rows.groupby("segment")["seconds"]
    low, median, high = (grouped.quantile(share) for share in (0.25, 0.5, 0.75))
    top = grouped.max()
    x = median.index.to_numpy()
    ax.fill_between(x, low, high, color=SKY, alpha=0.35, linewidth=0, label="middle half")
    single = {"marker": "o", "markersize": 4} if len(x) == 1 else {}
    ax.plot(x, median, color=BLUE, label="median", **single)  # type: ignore[arg-type]
    ax.plot(x, top, color=GREY, linewidth=1.0, linestyle=":", label="slowest member")
    least, most = float(low.min()), float(top.max())
    if most / least > 20:
        style.logarithmic(ax, "y", least, most)
    else:
        ax.set_ylim(bottom=0)
        style.linear(ax.yaxis)
    ax.set_xlabel("segment")
    ax.set_ylabel("training seconds per segment")
    style.whole_numbers(ax.xaxis)
    style.legend_above(ax)
    return style.figure_of(ax)


def _wall(run: Run) -> tuple[float | None, int | None]:
    """Wall seconds of the training and the number of slots, from the summary; None if there is no summary yet."""
    timing = (run.summary or {}).get("timing") or {}
    wall, train, ideal = timing.get("wall_s"), timing.get("train_s"), timing.get("ideal_s")
    return wall, round(train / ideal) if train and ideal else None
