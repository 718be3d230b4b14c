"""Who copied whom, when, and what it gained."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from raytune_rl.analysis.lineage import HORIZON
from raytune_rl.analysis.plots import style
from raytune_rl.analysis.plots.style import BLUE, CYCLE, GREY, INK, MANY, ORANGE, PALE, VERMILLION, styled
from raytune_rl.analysis.run import Run
from raytune_rl.analysis.texts import count

SHOWN_FOUNDERS = 7


@styled
def lineage(run: Run, ax: Axes | None = None) -> Figure:
    """Members as lines over the segments, copies as lines between them.

    Blue copies gained in their first segment, orange ones lost (the larger the dot, the more, relative to the value
    before); squares are roll-backs to the own best; crosses are segments that went wrong; black is the path of the best
    weights. Populations of more than ``style.MANY`` members are drawn as ``founders``.
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
    shares = run.founders
    if shares.empty:
        style.note(ax, "nothing trained yet")
        return style.figure_of(ax)
    shares = shares[[column for column in shares.columns if column >= 0]]
    weight = shares.iloc[-1] + 1e-3 * shares.mean()  # who is left at the end, then who was there for long
    top = list(weight.sort_values(ascending=False).index[:SHOWN_FOUNDERS])
    top.sort(key=lambda member: -float(shares[member].iloc[-1]))
    others = shares.drop(columns=top).sum(axis=1)
    layers = [100 * shares[member].to_numpy() for member in top] + [100 * others.to_numpy()]
    colours = [*CYCLE[: len(top)], PALE]
    x = shares.index.to_numpy()
    ax.stackplot(x, layers, colors=colours, edgecolor="white", linewidth=0.4)
    names = [f"member {member}: {100 * shares[member].iloc[-1]:.0f}%" for member in top]
    rest = shares.shape[1] - len(top)
    handles: list[object] = [Patch(color=colour, label=name) for colour, name in zip(colours, names, strict=False)]
    if rest:
        handles.append(Patch(color=PALE, label=f"{count(rest, 'others')}: {100 * others.iloc[-1]:.0f}%"))
    ax.set_xlim(float(x.min()), float(max(x.max(), x.min() + 1)))
    ax.set_ylim(0, 100)
    ax.set_xlabel("segment")
    ax.set_ylabel("weights that descend from, % of members")
    style.whole_numbers(ax.xaxis)
    style.legend_above(ax, handles, columns=2 if len(names) > 4 else 3)
    return style.figure_of(ax)


@styled
def gains(run: Run, ax: Axes | None = None) -> Figure:
    """What each copy gained: against the receiver's value before it, in percent, up = better.

    Filled: after the first segment; open: up to ``HORIZON`` segments later. Many copies are drawn as medians and
    quartiles of twenty stretches of the run.
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
    style.legend_above(ax, columns=2)
    return style.figure_of(ax)


def _tracks(run: Run, ax: Axes) -> None:
    spans = run.segments.groupby("member")["segment"].agg(["min", "max"])
    lines = [[(row.min, member), (max(row.max, row.min + 0.15), member)] for member, row in spans.iterrows()]
    lines = [[(float(a), float(m)), (float(b), float(m))] for (a, m), (b, _) in lines]
    ax.add_collection(LineCollection(lines, colors=PALE, linewidths=1.2, zorder=1), autolim=True)
    ax.autoscale_view()
    ax.margins(x=0.03)


def _arrows(run: Run, ax: Axes) -> list[object]:
    copies = run.lineage[run.lineage["receiver"] != run.lineage["donor"]]
    if copies.empty:
        return []
    handles: list[object] = []
    lost = (copies["gain"] < 0).to_numpy(dtype=bool)
    size = _sizes(copies)
    for chosen, colour, label in ((~lost, BLUE, "copy, gained"), (lost, ORANGE, "copy, lost")):
        part = copies[chosen]
        if part.empty:
            continue
        starts = part["donor_segment"].fillna(0).to_numpy(dtype=float).clip(min=0)
        ends = part["segment"].to_numpy(dtype=float)
        lines = [
            [(a, float(d)), (b, float(r))]
            for a, d, b, r in zip(starts, part["donor"], ends, part["receiver"], strict=True)
        ]
        ax.add_collection(LineCollection(lines, colors=colour, linewidths=0.9, alpha=0.8, zorder=2), autolim=False)
        ax.scatter(ends, part["receiver"], s=size[chosen], color=colour, linewidths=0, zorder=4)
        handles.append(Line2D([], [], color=colour, linewidth=0.9, marker="o", markersize=4, label=label))
    return handles


def _sizes(copies: pd.DataFrame) -> np.ndarray:
    """Areas of the dots: what was gained or lost, relative to the value before."""
    share = (copies["gain"].abs() / copies["value_before"].abs()).to_numpy(dtype=float)
    return 10.0 + 40.0 * np.sqrt(np.clip(np.nan_to_num(share, nan=0.0, posinf=1.0), 0.0, 1.0))


def _rollbacks(run: Run, ax: Axes) -> list[object]:
    own = run.lineage[run.lineage["receiver"] == run.lineage["donor"]]
    if own.empty:
        return []
    look = {"marker": "s", "markersize": 4.5, "markerfacecolor": "white", "markeredgecolor": GREY, "linestyle": ""}
    (handle,) = ax.plot(own["segment"], own["receiver"], zorder=3, label="back to own best", **look)
    return [handle]


def _failures(run: Run, ax: Axes) -> list[object]:
    wrong = run.segments[run.segments["status"] != "ok"]
    if wrong.empty:
        return []
    look = {"marker": "x", "markersize": 5, "color": VERMILLION, "linestyle": "", "markeredgewidth": 1.4}
    (handle,) = ax.plot(wrong["segment"], wrong["member"], zorder=5, label="went wrong", **look)
    return [handle]


def _best(run: Run, ax: Axes) -> list[object]:
    path = run.best_path
    if path.empty:
        return []
    x, y = path["segment"].to_numpy(dtype=float), path["member"].to_numpy(dtype=float)
    (handle,) = ax.plot(x, y, color=INK, linewidth=1.8, zorder=3, label="path of the best")
    ax.plot(x[-1], y[-1], marker="*", color=INK, markersize=10, zorder=6)
    return [handle]


def _points(ax: Axes, x: np.ndarray, now: pd.Series, later: pd.Series) -> None:
    # Copies of one segment side by side.
    offset = (
        pd.Series(x).groupby(x).cumcount().to_numpy() - (pd.Series(x).groupby(x).transform("size").to_numpy() - 1) / 2
    )
    x = x + 0.12 * offset
    lines = [[(a, b), (a, c)] for a, b, c in zip(x, now, later, strict=True) if np.isfinite(c)]
    ax.add_collection(LineCollection(lines, colors=PALE, linewidths=1.0, zorder=1), autolim=False)
    look = {"linestyle": "", "marker": "o", "markersize": 4.5}
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
