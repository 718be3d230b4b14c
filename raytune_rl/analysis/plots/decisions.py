"""What the agent did against what it saw."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from raytune_rl.analysis import influence
from raytune_rl.analysis.influence import COPY, saw_and_did
from raytune_rl.analysis.plots import style
from raytune_rl.analysis.plots.style import BLUE, GREY, INK, PALE, styled
from raytune_rl.analysis.run import Run

FEATURES = 9
_BINS = 5


def feature_name(feature: str) -> str:
    """``hp/lr/position`` as a reader takes it: ``lr: position``."""
    owner, _, rest = feature.removeprefix("hp/").rpartition("/")
    return f"{owner}: {rest}" if feature.startswith("hp/") else feature


@styled
def influences(run: Run, ax: Axes | None = None, pairs: pd.DataFrame | None = None) -> Figure:
    """The observations that went most with any action (rows), and how each action went with them (columns).

    Numbers are rank correlations: blue = the more of the feature, the further up (or the more copies), orange = the
    further down (or the fewer). Those in bold are larger than chance makes them.

    Args:
        pairs: ``saw_and_did(run.decisions)``, where it is at hand already.
    """
    pairs = saw_and_did(run.decisions) if pairs is None else pairs
    ax = style.panel(ax, (style.PANEL[0], 3.4))
    if pairs.empty:
        style.note(ax, "The agent made no decisions that differ,\nso there is nothing to relate.")
        return style.figure_of(ax)
    features = list(dict.fromkeys(pairs["saw"]))[:FEATURES]
    actions = [name for name in dict.fromkeys((*run.hyperparameters, COPY)) if (pairs["did"] == name).any()][:10]
    chosen = pairs[pairs["saw"].isin(features) & pairs["did"].isin(actions)]
    grid = chosen.pivot(index="saw", columns="did", values="correlation").reindex(index=features, columns=actions)
    firm = chosen.pivot(index="saw", columns="did", values="beyond_chance").reindex(index=features, columns=actions)
    values = grid.to_numpy(dtype=float)
    limit = max(0.3, float(np.nanmax(np.abs(values))))
    ax.imshow(values, cmap=_colours(), vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    for row, column in np.ndindex(values.shape):
        value = values[row, column]
        if np.isfinite(value):
            sure = firm.iloc[row, column] is True or firm.iloc[row, column] == True  # noqa: E712 (object column)
            colour = "white" if abs(value) > 0.7 * limit else (INK if sure else GREY)
            weight = "bold" if sure else "normal"
            ax.text(column, row, f"{value:+.2f}", ha="center", va="center", fontsize=8, color=colour, fontweight=weight)
    ax.set_xticks(
        range(len(actions)),
        actions,
        rotation=25 if len(actions) > 3 else 0,
        ha="right" if len(actions) > 3 else "center",
    )
    ax.set_yticks(range(len(features)), [feature_name(feature) for feature in features])
    ax.grid(visible=False)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_xlabel("what it did: moves up, or copies")
    ax.set_ylabel("what it saw")
    return style.figure_of(ax)


@styled
def strongest(run: Run, ax: Axes | None = None, pairs: pd.DataFrame | None = None) -> Figure:
    """The strongest of these relations in full: the action's mean over fifths of what was seen, with 95% intervals.

    Args:
        pairs: ``saw_and_did(run.decisions)``, where it is at hand already.
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
    scale = 100.0 if did == COPY else 1.0
    if did != COPY and len(seen) <= 600:
        ax.plot(seen, action, ".", color=PALE, markersize=3, zorder=1)
    fifths = pd.qcut(seen.rank(method="dense"), min(_BINS, seen.nunique()), duplicates="drop")
    grouped = action.groupby(fifths, observed=True)
    x = seen.groupby(fifths, observed=True).mean()
    mean = scale * grouped.mean()
    half = scale * 1.96 * grouped.std(ddof=1).fillna(0) / np.sqrt(grouped.size())
    ax.axhline(0, color=GREY, linewidth=0.8)
    ax.errorbar(x, mean, yerr=half, color=BLUE, marker="o", markersize=5, capsize=3, linewidth=1.6, zorder=3)
    ax.set_xlabel(f"saw: {feature_name(saw)}")
    ax.set_ylabel("did: copied, % of decisions" if did == COPY else f"did: move of {did} (-3 ... +3)")
    style.linear(ax.xaxis)
    style.linear(ax.yaxis)
    return style.figure_of(ax)


def _colours() -> object:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list(
        "orange-white-blue", ["#b34e00", "#f2a65a", "#ffffff", "#6aaed6", "#005a8f"]
    )
