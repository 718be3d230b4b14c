"""The benchmark's pictures: how the test loss falls as the budget is spent, and where every method ranks."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from quality.protocol import RANKED, SIMPLE
from quality.statistics import Curves, anytime_ranks

OURS, PLAIN, GREY = "#d1495b", "#00798c", "#9aa5b1"
PEERS = ("#2e4057", "#edae49", "#66a182", "#8f5fbf")
KINDS = {"simple": PLAIN, "peer": "#2e4057", "structure": GREY, "ours": OURS}
LABELS = {
    "simple": "simple rules",
    "peer": "tools of the field",
    "structure": "our structure or averages, nothing learned",
    "ours": "ours",
}


def shown(found: pd.DataFrame) -> dict[str, str]:
    """The methods that a picture of curves has room for, with their colours: ours, the simple baseline, random search,
    and the best rows of the best four families of the field."""
    colours = {name: colour for name, colour in ((RANKED, OURS), (SIMPLE, PLAIN), ("random", GREY))}
    families: dict[str, str] = {}
    for name in found.index[found["kind"] == "peer"]:
        families.setdefault(str(name).split()[0].split("/")[0], str(name))
    colours |= dict(zip(list(families.values())[: len(PEERS)], PEERS, strict=False))
    return {name: colour for name, colour in colours.items() if name in found.index}


def anytime(curves: Curves, found: pd.DataFrame, path: Path) -> None:
    """A panel per case: the median test loss of the incumbent, for ours and the simple baseline with quartiles."""
    colours = shown(found)
    columns = min(4, len(curves))
    rows = -(-len(curves) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.5 * columns, 2.6 * rows + 0.9), squeeze=False, sharex=True)
    for axis, (case, by_method) in zip(axes.flat, curves.items(), strict=False):
        last = []
        for name, colour in colours.items():
            low, middle, high = np.quantile(by_method[name], [0.25, 0.5, 0.75], axis=0)
            share = np.arange(1, len(middle) + 1) / len(middle)
            main = name in (RANKED, SIMPLE)
            axis.plot(share, middle, color=colour, label=name, linewidth=2.0 if main else 1.2, zorder=3 if main else 2)
            if main:
                axis.fill_between(share, low, high, color=colour, alpha=0.15, linewidth=0)
            last.append(middle[-1])
        best, usual = min(last), float(np.median(last))
        room = max(usual - best, 0.04 * best, 1e-3)  # the worst of all may leave the picture
        axis.set_ylim(best - 0.6 * room, best + 5.0 * room)
        axis.set_title(case, fontsize=9, loc="left")
        plain(axis)
    for axis in axes.flat[len(curves) :]:
        axis.set_axis_off()
    for axis in axes.flat[max(0, len(curves) - columns) : len(curves)]:
        axis.tick_params(labelbottom=True)
    figure.supxlabel("share of the budget spent", fontsize=9)
    figure.supylabel("test loss of the incumbent, median", fontsize=9)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=min(4, len(labels)), fontsize=8.5, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.55 / (2.6 * rows + 0.9)))
    figure.savefig(path, dpi=120)
    plt.close(figure)


def ranks(found: pd.DataFrame, title: str, path: Path, *, ranked: str = RANKED) -> None:
    """Mean ranks of all methods in log-loss and in accuracy, with intervals, best on top; ``ranked`` is in bold."""
    order = found.sort_values("rank_loss", ascending=False)
    height = np.arange(len(order))
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 0.24 * len(order) + 1.6), sharey=True)
    for axis, name, words in ((axes[0], "rank_loss", "test log-loss"), (axes[1], "rank_accuracy", "accuracy")):
        for kind, colour in KINDS.items():
            here = (order["kind"] == kind).to_numpy()
            values = order.loc[here, name]
            if not here.any() or values.isna().all():
                continue
            ends = (order.loc[here, f"{name}_{end}"] for end in ("low", "high"))
            axis.hlines(height[here], *ends, color=colour, linewidth=1.4)
            axis.plot(values, height[here], "o", color=colour, markersize=5, label=LABELS[kind])
        axis.set_xlabel(f"mean rank in {words} (lower is better)", fontsize=9)
        plain(axis)
    axes[0].set_yticks(height, [str(name) for name in order.index], fontsize=8)
    for label in axes[0].get_yticklabels():
        if label.get_text() == ranked:
            label.set(color=OURS, fontweight="bold")
    axes[0].set_ylim(-0.7, len(order) - 0.3)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=4, fontsize=8.5, frameon=False)
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    margin = 0.3 / figure.get_figheight()
    figure.tight_layout(rect=(0, margin, 1, 1 - margin / 2))
    figure.savefig(path, dpi=120)
    plt.close(figure)


def rank_over_budget(curves: Curves, found: pd.DataFrame, title: str, path: Path) -> None:
    """Mean rank in test log-loss while the budget is spent."""
    colours, over = shown(found), anytime_ranks(curves)
    share = np.arange(1, len(over) + 1) / len(over)
    figure, axis = plt.subplots(figsize=(7.2, 4.2))
    for name in over:
        colour = colours.get(name)
        if colour is None:
            axis.plot(share, over[name], color="#dfe3e8", linewidth=0.8, zorder=1)
        else:
            axis.plot(share, over[name], color=colour, label=name, linewidth=2.2 if name == RANKED else 1.4, zorder=2)
    axis.invert_yaxis()
    axis.set_xlabel("share of the budget spent", fontsize=9)
    axis.set_ylabel(f"mean rank of {over.shape[1]} methods in test log-loss", fontsize=9)
    axis.set_title(title, fontsize=10, loc="left")
    plain(axis)
    axis.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plain(axis: plt.Axes) -> None:
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)
