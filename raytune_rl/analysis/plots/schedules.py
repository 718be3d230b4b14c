"""The values that members trained with, segment by segment, and those that came with copied weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from raytune_rl.analysis import lineage
from raytune_rl.analysis.frames import HYPERPARAMETER
from raytune_rl.analysis.plots import style
from raytune_rl.analysis.plots.style import BLUE, CYCLE, DASHES, MANY, ORANGE, PALE, SKY, styled
from raytune_rl.analysis.run import Run
from raytune_rl.analysis.scales import Scale
from raytune_rl.errors import BadInput
from raytune_rl.texts import number

FEW = 6
"""A choice among at most this many numbers has a tick for each."""


@styled
def schedule(run: Run, name: str, ax: Axes | None = None) -> Figure:
    """One hyperparameter of all members over the segments.

    Thin grey: members. Blue: the path of the best weights. Orange: copies, from the donor's value to the receiver's.
    Large populations are drawn as median and quantiles, with copies on the best path only; if the values are
    categories, as shares of the members.

    Raises:
        BadInput: the run has no such hyperparameter.
    """
    if name not in run.hyperparameters:
        raise BadInput(f"the run has no hyperparameter {name!r}; it has {', '.join(run.hyperparameters) or 'none'}.")
    ax = style.panel(ax)
    scale = run.scales[name]
    values = scale.place(run.segments[HYPERPARAMETER + name])
    if not np.isfinite(values).any():
        style.note(ax, f"no value of {name} yet")
        return style.figure_of(ax)
    many = run.segments["member"].nunique() > MANY
    if many and scale.categories:
        _shares(run, ax, values, scale)
        return style.figure_of(ax)
    (_quantiles if many else _members)(run, ax, values)
    handles: list[Artist] = [
        Patch(color=SKY, alpha=0.35, label="members: middle half, 90%")
        if many
        else Line2D([], [], color=PALE, label="members")
    ]
    handles += _copies(run, ax, values, best_only=many)
    handles += _best_path(run, ax, values)
    _axes(ax, scale, values)
    style.legend_above(ax, handles)
    return style.figure_of(ax)


@styled
def schedules(run: Run, axes: Sequence[Axes] | None = None) -> Figure:
    """All hyperparameters, a panel each; see ``schedule``."""
    panels = list(axes) if axes is not None else style.panels(max(1, len(run.hyperparameters)))
    if not run.hyperparameters:
        style.note(panels[0], "no hyperparameters")
    for name, ax in zip(run.hyperparameters, panels, strict=False):
        schedule(run, name, ax)
    return style.figure_of(panels[0])


@styled
def best_schedules(runs: Sequence[Run], names: Sequence[str], name: str, ax: Axes | None = None) -> Figure:
    """One hyperparameter along the path of the best weights, one line per run.

    Args:
        runs: runs with this hyperparameter.
        names: the runs' names in the legend.
        name: the hyperparameter.
    """
    ax = style.panel(ax)
    scale = runs[0].scales[name]
    curves = []
    for index, (run, label) in enumerate(zip(runs, names, strict=True)):
        values = scale.place(run.best_path[HYPERPARAMETER + name])
        line = DASHES[index // len(CYCLE) % len(DASHES)]
        colour = CYCLE[index % len(CYCLE)]
        ax.plot(np.arange(len(values)), values, color=colour, linestyle=line, linewidth=1.8, label=style.safe(label))
        curves.append(values)
    all_values = np.concatenate(curves) if curves else np.array([])
    if not np.isfinite(all_values).any():
        style.note(ax, f"no value of {name} yet")
        return style.figure_of(ax)
    _axes(ax, scale, all_values)
    ax.set_xlabel("segments on the path of the best weights")
    style.legend_above(ax)
    return style.figure_of(ax)


def _members(run: Run, ax: Axes, values: np.ndarray) -> None:
    members, segments = run.segments["member"].to_numpy(), run.segments["segment"].to_numpy(dtype=float)
    cuts = np.flatnonzero(np.diff(members)) + 1
    points = np.column_stack([segments, values])
    ax.add_collection(LineCollection(np.split(points, cuts), colors=PALE, linewidths=1.0, zorder=1), autolim=True)
    if (np.diff(np.append(np.append(0, cuts), len(members))) == 1).any():  # a line through one point is invisible
        ax.plot(segments, values, ".", color=PALE, markersize=4, zorder=1)
    ax.autoscale_view()


def _quantiles(run: Run, ax: Axes, values: np.ndarray) -> None:
    segments = run.segments["segment"].to_numpy()
    order = np.argsort(segments, kind="stable")
    x, starts = np.unique(segments[order], return_index=True)
    quantiles = _quantiles_of(np.split(values[order], starts[1:]), (0.05, 0.25, 0.5, 0.75, 0.95))
    ax.fill_between(x, quantiles[0], quantiles[4], color=SKY, alpha=0.2, linewidth=0, zorder=1)
    ax.fill_between(x, quantiles[1], quantiles[3], color=SKY, alpha=0.35, linewidth=0, zorder=1)
    ax.plot(x, quantiles[2], color=SKY, linewidth=1.2, zorder=2)


def _quantiles_of(groups: Sequence[np.ndarray], shares: Sequence[float]) -> np.ndarray:
    """Quantiles of each group, shape (shares, groups). Groups of the same size, as most are, share one call."""
    quantiles = np.empty((len(shares), len(groups)))
    sizes = np.array([len(group) for group in groups])
    for size in np.unique(sizes):
        same_size = np.flatnonzero(sizes == size)
        quantiles[:, same_size] = np.nanquantile([groups[index] for index in same_size.tolist()], shares, axis=1)
    return quantiles


def _shares(run: Run, ax: Axes, values: np.ndarray, scale: Scale) -> None:
    segments = run.segments["segment"]
    counts = np.stack(
        [
            segments[values == category].value_counts().reindex(segments.unique(), fill_value=0).sort_index()
            for category in range(len(scale.categories))
        ]
    )
    shares = 100.0 * counts / np.maximum(counts.sum(axis=0), 1)
    colours = [CYCLE[category % len(CYCLE)] for category in range(len(scale.categories))]
    ax.stackplot(np.sort(segments.unique()), shares, colors=colours, edgecolor="white", linewidth=0.4)
    ax.set_ylim(0, 100)
    ax.margins(x=0)
    ax.set_xlabel("segment")
    ax.set_ylabel(f"{scale.name}, % of members")
    style.whole_numbers(ax.xaxis)
    names = zip(colours, scale.categories, strict=True)
    style.legend_above(ax, [Patch(color=colour, label=style.safe(name)) for colour, name in names])


def _copies(run: Run, ax: Axes, values: np.ndarray, *, best_only: bool) -> list[Artist]:
    copies = run.lineage
    copies = copies[(copies["receiver"] != copies["donor"]) & (copies["on_best_path"] | (not best_only))]
    if copies.empty:
        return []
    target = lineage.find_rows(run.segments, copies["receiver"].to_numpy(), copies["segment"].to_numpy())
    donor_segments = copies["donor_segment"].fillna(-1).to_numpy(np.int64)
    source = lineage.find_rows(run.segments, copies["donor"].to_numpy(), donor_segments)
    known = source >= 0
    segments = run.segments["segment"].to_numpy(dtype=float)
    starts = np.column_stack([segments[source[known]], values[source[known]]])
    ends = np.column_stack([segments[target[known]], values[target[known]]])
    lines = np.stack([starts, ends], axis=1)
    ax.add_collection(LineCollection(list(lines), colors=ORANGE, linewidths=0.8, alpha=0.8, zorder=3), autolim=False)
    ax.plot(ends[:, 0], ends[:, 1], "o", color=ORANGE, markersize=3, zorder=3)
    text = "copies (best path)" if best_only else "copies"
    return [Line2D([], [], color=ORANGE, linewidth=0.8, marker="o", markersize=3, label=text)]


def _best_path(run: Run, ax: Axes, values: np.ndarray) -> list[Artist]:
    path = run.best_path
    if path.empty:
        return []
    rows = lineage.find_rows(run.segments, path["member"].to_numpy(), path["segment"].to_numpy())
    look: dict[str, Any] = {"color": BLUE, "linewidth": 2.0 if len(rows) <= 60 else 1.2, "zorder": 4}
    ax.plot(path["segment"], values[rows], marker="o" if len(rows) == 1 else "", markersize=4, **look)
    return [Line2D([], [], color=BLUE, linewidth=2.0, label="best path")]


def _axes(ax: Axes, scale: Scale, values: np.ndarray) -> None:
    finite = values[np.isfinite(values)]
    if scale.categories:
        ax.set_yticks(range(len(scale.categories)), scale.categories)
        ax.set_ylim(-0.5, len(scale.categories) - 0.5)
    elif scale.log and finite.min() > 0:
        low, high = float(finite.min()), float(finite.max())
        style.logarithmic(ax, "y", low, high)
        ax.set_ylim(low / 1.3, high * 1.3)
    else:
        margin = 0.05 * float(finite.max() - finite.min()) or 0.05 * abs(float(finite.max())) or 0.05
        ax.set_ylim(float(finite.min()) - margin, float(finite.max()) + margin)
        style.linear(ax.yaxis)
    if 0 < len(scale.options) <= FEW:
        ax.set_yticks(scale.options, [number(option) for option in scale.options])
    ax.set_xlabel("segment")
    ax.set_ylabel(f"{scale.name} (log scale)" if scale.log else scale.name)
    style.whole_numbers(ax.xaxis)
