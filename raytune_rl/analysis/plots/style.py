"""What all plots share: colours that colour-blind readers can tell apart, a plain style, and short tick labels.

Figures are made without ``pyplot``, so there is no global state, and figures need not be closed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from raytune_rl.texts import number

# Okabe and Ito (2008), and greys with enough contrast on white.
BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
SKY, ORANGE, INK, GREY, PALE = "#56B4E9", "#E69F00", "#1a1a1a", "#767676", "#c4c4c4"
CYCLE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, INK, GREY)
DASHES = ("-", "--", "-.", ":")

PANEL = (4.1, 2.8)
"""Width and height of a panel in inches: narrow enough for its text to be readable on a phone."""

MANY = 40
"""Populations with more members are drawn as medians and quantiles, not member by member."""

STYLE: dict[Any, Any] = {
    "font.size": 9.0,
    "font.family": "sans-serif",
    "axes.titlesize": 9.0,
    "axes.labelsize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handlelength": 1.6,
    "legend.columnspacing": 1.2,
    "lines.linewidth": 1.4,
    "text.parse_math": False,  # names come from users: a "$" in one is a dollar
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "raytune_rl",
}

P = ParamSpec("P")
T = TypeVar("T")


def styled(function: Callable[P, T]) -> Callable[P, T]:
    """Make ``function`` draw in our style without changing the user's settings."""

    @functools.wraps(function)
    def in_style(*args: P.args, **kwargs: P.kwargs) -> T:
        with matplotlib.rc_context(STYLE):
            return function(*args, **kwargs)

    return in_style


def panel(ax: Axes | None, size: tuple[float, float] = PANEL) -> Axes:
    """``ax``, or the only axes of a new figure."""
    return ax if ax is not None else Figure(figsize=size, layout="constrained").add_subplot()


def figure_of(ax: Axes) -> Figure:
    figure = ax.get_figure(root=True)
    assert isinstance(figure, Figure)
    return figure


def panels(count: int, columns: int = 2, size: tuple[float, float] = PANEL) -> list[Axes]:
    """The axes of a new figure with ``count`` panels."""
    columns = min(columns, max(count, 1))
    rows = max(1, -(-count // columns))
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    return [figure.add_subplot(rows, columns, number) for number in range(1, count + 1)]


def note(ax: Axes, text: str) -> None:
    """Leave the panel empty but for a text that says why."""
    ax.set_axis_off()
    ax.text(0.5, 0.5, text, ha="center", va="center", color=GREY, wrap=True, transform=ax.transAxes)


def safe(label: str) -> str:
    """A label for a legend, made visible if it begins with an underscore: matplotlib hides such labels."""
    return "\u200b" + label if label.startswith("_") else label


def linear(axis: Axis) -> None:
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(float(value))))


def logarithmic(ax: Axes, which: str, low: float, high: float) -> None:
    """A log axis from ``low`` to ``high`` (positive) with short labels, even if it spans less than a decade."""
    set_scale, axis = (ax.set_xscale, ax.xaxis) if which == "x" else (ax.set_yscale, ax.yaxis)
    set_scale("log")
    ratio = high / low
    axis.set_minor_locator(NullLocator())
    if ratio < 3:
        # in less than half a decade a log axis would have one label or none
        axis.set_major_locator(MaxNLocator(5))
    else:
        axis.set_major_locator(LogLocator(subs=(1.0,) if ratio > 300 else (1.0, 2.0, 5.0), numticks=7))
    linear(axis)


def whole_numbers(axis: Axis, most: int = 7) -> None:
    axis.set_major_locator(MaxNLocator(most, integer=True, min_n_ticks=1))


def legend_above(ax: Axes, handles: Sequence[Artist] | None = None) -> None:
    """A legend above the plot, where it hides no data, in as many columns as fit."""
    if handles is None:
        handles = ax.get_legend_handles_labels()[0]
    if not handles:
        return
    labels = [_shortened(str(handle.get_label())) for handle in handles]
    room = (ax.get_position().width + 0.08) * figure_of(ax).get_figwidth() * 72.0
    columns = next((n for n in range(min(len(labels), 4), 1, -1) if _legend_width(labels, n) <= room), 1)
    ax.legend(handles, labels, ncols=columns, loc="lower left", bbox_to_anchor=(0.0, 1.0), borderaxespad=0.2)


def _legend_width(labels: Sequence[str], columns: int) -> float:
    """The approximate width of a legend with this number of columns, in points."""
    parts = np.array_split([len(label) for label in labels], columns)  # as matplotlib distributes them
    return sum(4.5 * float(part.max()) + 30.0 for part in parts)


def _shortened(label: str, most: int = 44) -> str:
    return label if len(label) <= most else label[: most - 1] + "\u2026"
