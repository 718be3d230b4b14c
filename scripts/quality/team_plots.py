"""Pictures of the benchmark of ensembles: what combining gains each method, and what noise takes away."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from quality.judging import CLEAN, NOISE, SINGLE, noise
from quality.plots import KINDS, LABELS, OURS, PEERS, PLAIN, plain
from quality.team_summary import best_baseline
from quality.teams import TEAM


def gains(found: pd.DataFrame, title: str, path: Path) -> None:
    """Mean log test loss of every method's best single member (ring) and of its ensemble (disc), with intervals of the
    latter; best ensemble on top."""
    order = found.sort_values("log_loss", ascending=False)
    height = np.arange(len(order))
    figure, axis = plt.subplots(figsize=(7.6, 0.32 * len(order) + 1.6))
    for kind, colour in KINDS.items():
        here = (order["kind"] == kind).to_numpy()
        if not here.any():
            continue
        part = order[here]
        axis.hlines(height[here], part["log_loss"], part["single_log_loss"], color=colour, linewidth=1.0, alpha=0.5)
        axis.hlines(height[here], part["log_loss_low"], part["log_loss_high"], color=colour, linewidth=3.0, alpha=0.35)
        axis.plot(part["single_log_loss"], height[here], "o", mfc="white", mec=colour, markersize=6)
        axis.plot(part["log_loss"], height[here], "o", color=colour, markersize=6, label=LABELS[kind])
    ring = plt.Line2D([], [], marker="o", linestyle="", mfc="white", mec="#555555", label="best single member")
    handles, _ = axis.get_legend_handles_labels()
    axis.set_yticks(height, [str(name) for name in order.index], fontsize=8)
    _embolden(axis)
    axis.set_ylim(-0.7, len(order) - 0.3)
    axis.set_xlabel("mean of ln(test loss + 0.02) over cases (left is better)", fontsize=9)
    plain(axis)
    figure.legend(handles=[*handles, ring], loc="lower center", ncols=5, fontsize=8, frameon=False)
    _save(figure, title, path)


def robustness(found: pd.DataFrame, title: str, path: Path) -> None:
    """Accuracy as noise grows, and under the shift: ensembles (solid) and best single members (dotted) of ours, of the
    best baseline, and of two others."""
    if found[f"accuracy_{CLEAN}"].isna().all():
        return
    named = [TEAM, best_baseline(found), "hand default + cosine", "PBT/1 from grid", "random + cosine"]
    chosen = [name for name in dict.fromkeys(named) if name is not None and name in found.index]
    colours = dict(zip(chosen, (OURS, PLAIN, *PEERS) if TEAM in chosen else (PLAIN, *PEERS), strict=False))
    levels = (0.0, *NOISE)
    names = (CLEAN, *(noise(deviation) for deviation in NOISE))
    beyond = levels[-1] + 0.25
    figure, axis = plt.subplots(figsize=(7.6, 4.2))
    for name, colour in colours.items():
        row = found.loc[name]
        for prefix, line, filled in (("", "-", colour), (f"{SINGLE}_", ":", "white")):
            values = [row[f"{prefix}accuracy_{inputs}"] for inputs in names]
            label = name if not prefix else None
            axis.plot(levels, values, line, marker="o", markersize=4, mfc=filled, color=colour, label=label)
            axis.plot(beyond, row[f"{prefix}accuracy_shift"], "s", mfc=filled, mec=colour, markersize=6)
    axis.set_xticks([*levels, beyond], [*(f"{level:g}" for level in levels), "shift"])
    axis.set_xlabel("deviation of the noise on standardised inputs; and the shift", fontsize=9)
    axis.set_ylabel("mean accuracy over classifications", fontsize=9)
    plain(axis)
    handles, _ = axis.get_legend_handles_labels()
    kinds = (("ensemble", "-", "#555555"), ("best single member", ":", "white"))
    handles += [plt.Line2D([], [], linestyle=s, marker="o", mfc=f, color="#555555", label=w) for w, s, f in kinds]
    figure.legend(handles=handles, loc="lower center", ncols=4, fontsize=8, frameon=False)
    _save(figure, title, path, rows=2)


def _embolden(axis: plt.Axes) -> None:
    for label in axis.get_yticklabels():
        if label.get_text() == TEAM:
            label.set(color=OURS, fontweight="bold")


def _save(figure: plt.Figure, title: str, path: Path, *, rows: int = 1) -> None:
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    margin = (0.1 + 0.2 * rows) / figure.get_figheight()
    figure.tight_layout(rect=(0, margin, 1, 1))
    figure.savefig(path, dpi=120)
    plt.close(figure)
