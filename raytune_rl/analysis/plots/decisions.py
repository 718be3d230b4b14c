"""How the agent's actions relate to what it saw."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure

from raytune_rl.analysis import influence
from raytune_rl.analysis.influence import COPY, saw_and_did
from raytune_rl.analysis.plots import style
from raytune_rl.analysis.plots.style import BLUE, GREY, INK, styled
from raytune_rl.analysis.run import Run

FEATURES = 9
"""The largest number of features that are shown."""
_BINS = 5


def feature_name(feature: str) -> str:
    """A feature's name for readers: ``lr: position`` for ``hp/lr/position``."""
    owner, _, rest = feature.removeprefix("hp/").rpartition("/")
    return f"{owner}: {rest}" if feature.startswith("hp/") else feature


@styled
def influences(run: Run, ax: Axes | None = None, pairs: pd.DataFrame | None = None) -> Figure:
    """Rank correlations between actions (columns) and the observations that correlate most with any action (rows).

    Blue: the larger the feature, the further up the move (or the more copies); orange: the further down (or the fewer).
    Numbers in bold are larger than chance alone makes them.

    Args:
        pairs: ``saw_and_did(run.decisions)``, if it is known already.
    """
    pairs = saw_and_did(run.decisions) if pairs is None else pairs
    ax = style.panel(ax, (style.PANEL[0], 3.2))
    if pairs.empty:
        style.note(ax, "The agent made no decisions that differ,\nso there is nothing to relate.")
        return style.figure_of(ax)
    features = list(dict.fromkeys(pairs["saw"]))[:FEATURES]
    actions = [name for name in dict.fromkeys((*run.hyperparameters, COPY)) if (pairs["did"] == name).any()][:10]
    shown = pairs[pairs["saw"].isin(features) & pairs["did"].isin(actions)]
    grid = shown.pivot(index="saw", columns="did", values="correlation").reindex(index=features, columns=actions)
    beyond = shown.pivot(index="saw", columns="did", values="beyond_chance").reindex(index=features, columns=actions)
    values = grid.to_numpy(dtype=float)
    limit = max(0.3, float(np.nanmax(np.abs(values))))
    ax.pcolormesh(np.ma.masked_invalid(values), cmap=_colours(), vmin=-limit, vmax=limit, edgecolors="w", linewidth=1)
    ax.invert_yaxis()
    for row, column in np.ndindex(values.shape):
        value = values[row, column]
        if np.isfinite(value):
            weight = "bold" if beyond.iloc[row, column] else "normal"
            colour = "white" if abs(value) > 0.6 * limit else INK
            look: dict[str, Any] = {"fontsize": 8, "color": colour, "fontweight": weight}
            ax.text(column + 0.5, row + 0.5, f"{value:+.2f}", ha="center", va="center", **look)
    ax.set_xticks(
        np.arange(len(actions)) + 0.5,
        actions,
        rotation=25 if len(actions) > 3 else 0,
        ha="right" if len(actions) > 3 else "center",
    )
    ax.set_yticks(np.arange(len(features)) + 0.5, [feature_name(feature) for feature in features])
    ax.grid(visible=False)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_xlabel("what it did: moves up, or copies")
    ax.set_ylabel("what it saw")
    return style.figure_of(ax)


@styled
def strongest(run: Run, ax: Axes | None = None, pairs: pd.DataFrame | None = None) -> Figure:
    """The strongest relation in detail: the action's mean in each fifth of the observation's values, from low to high,
    with 95% intervals.

    Args:
        pairs: ``saw_and_did(run.decisions)``, if it is known already.
    """
    pairs = saw_and_did(run.decisions) if pairs is None else pairs
    ax = style.panel(ax)
    if pairs.empty:
        style.note(ax, "no decisions that differ")
        return style.figure_of(ax)
    saw, did = str(pairs["saw"].iloc[0]), str(pairs["did"].iloc[0])
    seen, action = influence.observed(run.decisions)[saw], influence.done(run.decisions)[did]
    known = action.notna()
    seen, action = seen[known], action[known]
    fifth = _fifths(seen)
    grouped = action.groupby(fifth)
    size, mean = grouped.size().to_numpy(dtype=float), grouped.mean().to_numpy(dtype=float)
    x = np.arange(len(size))
    if did == COPY:
        low, high = (100 * edge for edge in _wilson(mean, size))
        mean = 100 * mean
        ax.set_ylim(-3, 103)
    else:
        half = 1.96 * grouped.sem().fillna(0.0).to_numpy(dtype=float)
        low, high = mean - half, mean + half
        ax.axhline(0, color=GREY, linewidth=0.8)
    error = np.maximum(np.stack([mean - low, high - mean]), 0.0)
    ax.errorbar(x, mean, yerr=error, color=BLUE, marker="o", markersize=5, capsize=3, linewidth=1.6, zorder=3)
    typical = seen.groupby(fifth).median()
    ax.set_xticks(x, [f"{value:.2g}" for value in typical])
    ax.set_xlim(-0.4, len(x) - 0.6)
    ax.set_xlabel(f"saw: {feature_name(saw)}\n(parts from low to high, their medians)")
    ax.set_ylabel("did: chose to copy, % of decisions" if did == COPY else f"did: move of {did} (-3 ... +3)")
    style.linear(ax.yaxis)
    return style.figure_of(ax)


def _fifths(seen: pd.Series) -> np.ndarray:
    """The fifth, 0 to 4 from low to high, that each value belongs to; equal values stay together."""
    return np.minimum((seen.rank(method="min", pct=True).to_numpy() * _BINS - 1e-9).astype(int), _BINS - 1)


def _wilson(share: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 95% interval of a share (Wilson 1927). It lies inside [0, 1], even for shares of 0 and 1."""
    z = 1.96
    centre = (share + z**2 / (2 * size)) / (1 + z**2 / size)
    half = z * np.sqrt(share * (1 - share) / size + z**2 / (4 * size**2)) / (1 + z**2 / size)
    return centre - half, centre + half


def _colours() -> Colormap:
    return LinearSegmentedColormap.from_list(
        "orange-white-blue", ["#b34e00", "#f2a65a", "#ffffff", "#6aaed6", "#005a8f"]
    )
