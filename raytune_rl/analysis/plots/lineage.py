"""Who copied whom, when, and what it gained."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from raytune_rl.analysis.lineage import HORIZON
from raytune_rl.analysis.plots import style
from raytune_rl.analysis.plots.style import BLUE, CYCLE, GREY, INK, MANY, ORANGE, PALE, VERMILLION, styled
from raytune_rl.analysis.run import Run
from raytune_rl.texts import count

SHOWN_FOUNDERS = 6
SHOWN_SHARE = 5.0
"""A founder is shown separately if its descendants were at least this share of the population once, in percent."""


@styled
def lineage(run: Run, ax: Axes | None = None) -> Figure:
    """Members as lines over the segments, copies as lines between them.

    Blue copies gained in their first segment, orange ones lost; the larger the dot, the more, relative to the value
    before. Squares are returns to a member's own best, crosses are segments that failed, hung or diverged, and the
    black line is the path of the best weights. Populations of more than ``style.MANY`` members are drawn as
    ``founders``.
    """
    members = np.sort(run.segments["member"].unique())
    if len(members) > MANY:
        return founders(run, ax)
    if ax is None:
        ax = style.panel(None, (style.PANEL[0], max(style.PANEL[1], 0.9 + 0.19 * len(members))))
    if not len(members):
        style.note(ax, "nothing trained yet")
        return style.figure_of(ax)
    _tracks(run, ax)
    handles = _arrows(run, ax) + _rollbacks(run, ax) + _failures(run, ax) + _best(run, ax)
    ax.set_yticks(members if len(members) <= 16 else members[:: -(-len(members) // 12)])
    ax.set_ylim(float(members.max()) + 0.7, float(members.min()) - 0.7)
    ax.grid(visible=False)
    ax.set_xlabel("segment")
    ax.set_ylabel("member")
    style.whole_numbers(ax.xaxis)
    style.legend_above(ax, handles)
    return style.figure_of(ax)


@styled
def founders(run: Run, ax: Axes | None = None) -> Figure:
    """Which members' first weights the population descends from, as shares over the segments."""
    ax = style.panel(ax)
    founded = run.founders
    if founded.empty:
        style.note(ax, "nothing trained yet")
        return style.figure_of(ax)
    shares = 100.0 * founded.to_numpy(dtype=float)
    weight = shares[-1] + 1e-3 * shares.mean(axis=0)  # by the share at the end, then by that over the whole run
    top = np.argsort(-weight, kind="stable")[:SHOWN_FOUNDERS]
    top = top[shares[:, top].max(axis=0) >= SHOWN_SHARE]
    others = shares.sum(axis=1) - shares[:, top].sum(axis=1)
    colours = [*CYCLE[: len(top)], PALE]
    x = founded.index.to_numpy(dtype=float)
    ax.stackplot(x, [*shares[:, top].T, others], colors=colours, edgecolor="white", linewidth=0.4)
    names = [f"member {founded.columns[column]}: {shares[-1, column]:.0f}%" for column in top]
    rest = shares.shape[1] - len(top)
    handles: list[Artist] = [Patch(color=colour, label=name) for colour, name in zip(colours, names, strict=False)]
    if rest:
        handles.append(Patch(color=PALE, label=f"{count(rest, 'others')}: {others[-1]:.0f}%"))
    ax.set_xlim(float(x.min()), float(max(x.max(), x.min() + 1)))
    ax.set_ylim(0, 100)
    ax.set_xlabel("segment")
    ax.set_ylabel("% of members descending from")
    style.whole_numbers(ax.xaxis)
    style.legend_above(ax, handles)
    return style.figure_of(ax)


@styled
def gains(run: Run, ax: Axes | None = None) -> Figure:
    """What each copy gained, in percent of the receiver's value before it; up is better.

    Filled dots: after the first segment; open dots: up to ``HORIZON`` segments later. Many copies are drawn as medians
    and quartiles over twenty stretches of the run.
    """
    ax = style.panel(ax)
    copies = run.lineage[run.lineage["receiver"] != run.lineage["donor"]]
    base = copies["value_before"].abs()
    now = (100 * copies["gain"] / base).where(base > 0).clip(-100, 100)
    later = (100 * copies["gain_later"] / base).where(base > 0).clip(-100, 100)
    known = now.notna()
    if not known.any():
        style.note(ax, "no copies" if copies.empty else "no copy between sound segments")
        return style.figure_of(ax)
    ax.axhline(0, color=GREY, linewidth=0.8)
    x = copies["segment"][known].to_numpy(dtype=float)
    draw = _points if known.sum() <= 150 else _stretches
    draw(ax, x, now[known], later[known])
    ax.set_xlabel("segment of the copy")
    ax.set_ylabel(f"{run.metric}: gain, % (up is better)")
    style.whole_numbers(ax.xaxis)
    style.legend_above(ax)
    return style.figure_of(ax)


def _tracks(run: Run, ax: Axes) -> None:
    spans = run.segments.groupby("member")["segment"].agg(["min", "max"])
    members = spans.index.to_numpy(dtype=float)
    first, last = spans["min"].to_numpy(dtype=float), spans["max"].to_numpy(dtype=float)
    last = np.maximum(last, first + 0.15)  # so that a single segment is visible, too
    lines = np.stack([np.column_stack([first, members]), np.column_stack([last, members])], axis=1)
    ax.add_collection(LineCollection(list(lines), colors=PALE, linewidths=1.2, zorder=1), autolim=True)
    ax.autoscale_view()
    ax.margins(x=0.03)


def _arrows(run: Run, ax: Axes) -> list[Artist]:
    copies = run.lineage[run.lineage["receiver"] != run.lineage["donor"]]
    if copies.empty:
        return []
    handles: list[Artist] = []
    lost = (copies["gain"] < 0).to_numpy(dtype=bool)
    size = _sizes(copies)
    for mask, colour, label in ((~lost, BLUE, "gained"), (lost, ORANGE, "lost")):
        part = copies[mask]
        if part.empty:
            continue
        starts = part["donor_segment"].fillna(0).to_numpy(dtype=float).clip(min=0)
        ends = part["segment"].to_numpy(dtype=float)
        lines = [
            [(a, float(d)), (b, float(r))]
            for a, d, b, r in zip(starts, part["donor"], ends, part["receiver"], strict=True)
        ]
        ax.add_collection(LineCollection(lines, colors=colour, linewidths=0.9, alpha=0.8, zorder=2), autolim=False)
        ax.scatter(ends, part["receiver"], s=size[mask], color=colour, linewidths=0, zorder=4)
        handles.append(Line2D([], [], color=colour, linewidth=0.9, marker="o", markersize=4, label=label))
    return handles


def _sizes(copies: pd.DataFrame) -> np.ndarray:
    """Areas of the dots: what was gained or lost, relative to the value before."""
    share = (copies["gain"].abs() / copies["value_before"].abs()).to_numpy(dtype=float)
    return 10.0 + 40.0 * np.sqrt(np.clip(np.nan_to_num(share, nan=0.0, posinf=1.0), 0.0, 1.0))


def _rollbacks(run: Run, ax: Axes) -> list[Artist]:
    own = run.lineage[run.lineage["receiver"] == run.lineage["donor"]]
    if own.empty:
        return []
    look: dict[str, Any] = {
        "marker": "s",
        "markersize": 4.5,
        "markerfacecolor": "white",
        "markeredgecolor": GREY,
        "linestyle": "",
    }
    (handle,) = ax.plot(own["segment"], own["receiver"], zorder=3, label="back to own best", **look)
    return [handle]


def _failures(run: Run, ax: Axes) -> list[Artist]:
    wrong = run.segments[run.segments["status"] != "ok"]
    if wrong.empty:
        return []
    look: dict[str, Any] = {
        "marker": "x",
        "markersize": 5,
        "color": VERMILLION,
        "linestyle": "",
        "markeredgewidth": 1.4,
    }
    (handle,) = ax.plot(wrong["segment"], wrong["member"], zorder=5, label="went wrong", **look)
    return [handle]


def _best(run: Run, ax: Axes) -> list[Artist]:
    path = run.best_path
    if path.empty:
        return []
    x, y = path["segment"].to_numpy(dtype=float), path["member"].to_numpy(dtype=float)
    (handle,) = ax.plot(x, y, color=INK, linewidth=1.8, zorder=3, label="best path")
    ax.plot(x[-1], y[-1], marker="*", color=INK, markersize=10, zorder=6)
    return [handle]


def _points(ax: Axes, x: np.ndarray, now: pd.Series, later: pd.Series) -> None:
    # draw copies of the same segment side by side
    offset = (
        pd.Series(x).groupby(x).cumcount().to_numpy() - (pd.Series(x).groupby(x).transform("size").to_numpy() - 1) / 2
    )
    x = x + 0.12 * offset
    lines = [[(a, b), (a, c)] for a, b, c in zip(x, now, later, strict=True) if np.isfinite(c)]
    ax.add_collection(LineCollection(lines, colors=PALE, linewidths=1.0, zorder=1), autolim=False)
    look: dict[str, Any] = {"linestyle": "", "marker": "o", "markersize": 4.5}
    ax.plot(
        x, later, markerfacecolor="white", markeredgecolor=BLUE, zorder=2, label=f"{HORIZON} segments later", **look
    )
    ax.plot(x, now, color=BLUE, zorder=3, label="after the first segment", **look)


def _stretches(ax: Axes, x: np.ndarray, now: pd.Series, later: pd.Series) -> None:
    stretch = pd.Series(pd.cut(x, min(20, len(np.unique(x))), labels=False), index=now.index)
    centre = pd.Series(x, index=now.index).groupby(stretch).mean()
    for values, colour, label in ((now, BLUE, "after the first segment"), (later, ORANGE, f"{HORIZON} segments later")):
        by_stretch = values.groupby(stretch)
        ax.fill_between(
            centre, by_stretch.quantile(0.25), by_stretch.quantile(0.75), color=colour, alpha=0.2, linewidth=0
        )
        ax.plot(centre, by_stretch.median(), color=colour, marker="o", markersize=3, label=f"{label}, median")
