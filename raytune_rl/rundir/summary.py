"""``summary.json``: what came out of a run, computed from its tables and a few numbers.

Pure functions over frames, so that a summary can be made again from any run directory, and of part of a run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from raytune_rl.combining.calibration import Calibration
from raytune_rl.mdp.score import TIE_BREAKER
from raytune_rl.records import FLOOR, Incumbent, Mode
from raytune_rl.rundir.plain import python_value


@dataclass(frozen=True, kw_only=True)
class Counters:
    """What the tables do not hold.

    Attributes:
        wall_s: seconds from the first segment's start to the last one's end, over all sessions of a resumed run.
        slots: trials that can run at once.
        decision_ms: milliseconds that decisions took, one entry per decision or a fair sample of them.
        failures: segments that failed, hung or diverged, those that were trained again included.
        restarts: members that went back to an own checkpoint or to their start after a failure.
    """

    wall_s: float
    slots: int
    decision_ms: Sequence[float] = ()
    failures: int = 0
    restarts: int = 0


@dataclass(frozen=True, kw_only=True)
class AgentSummary:
    """Who decided: its algorithm's name, its checkpoint inside the run directory, the transitions it has seen."""

    algorithm: str
    checkpoint: str | None = None
    transitions: int = 0


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What something else reached with the same budget.

    Attributes:
        name: what it is, as a sentence names it.
        value: its best value of the metric.
        metrics: of its best, on validation and test.
        segments: how many segments it trained, of all members together.
        train_s: their training seconds.
        of: whether that is its best member's value, or its ensemble's, to be compared with our ensemble's.
    """

    value: float
    segments: int
    train_s: float
    name: str = "random search"
    metrics: Mapping[str, float] = field(default_factory=dict)
    of: Literal["best", "ensemble"] = "best"


def build_summary(
    segments: pd.DataFrame,
    decisions: pd.DataFrame,
    *,
    metric: str,
    mode: Mode,
    counters: Counters,
    agent: AgentSummary,
    best_path: str | None = None,
    incumbent: Incumbent | None = None,
    delivered: Mapping[str, Any] | None = None,
    test: Mapping[str, float] | None = None,
    comparison: Comparison | None = None,
    ensemble: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of ``summary.json``.

    Args:
        segments: ``segments.parquet``.
        decisions: ``decisions.parquet``.
        metric: the experiment's metric, without ``metric/``.
        mode: its direction.
        best_path: where the best model lies inside the run directory.
        incumbent: whose model lies there; the best row of the table if left out. (The two differ where a member went
            through a segment twice.)
        delivered: ``Delivered.summary``, where the model that lies there is more than a checkpoint: ``best`` tells of
            it then, and under ``checkpoint`` of the checkpoint alone.
        test: metrics of the model that lies there on the test split, joined to its validation metrics.
        comparison: left out of the summary if there is none.
        ensemble: ``{value, members, weights, metrics, path}``; left out of the summary if there is none.
    """
    best = incumbent or best_of(segments, metric, mode)
    summary: dict[str, Any] = {
        "best": None if best is None else _best(best, path=best_path, test=test or {}, delivered=delivered),
        **({} if ensemble is None else {"ensemble": dict(ensemble)}),
        "timing": timing(segments, counters),
        "counts": counts(segments, decisions, counters),
        "agent": {"algorithm": agent.algorithm, "checkpoint": agent.checkpoint, "transitions": agent.transitions},
    }
    if comparison is not None:
        alone = None if best is None else summary["best"]["value"]
        ours = alone if comparison.of == "best" else (ensemble or {}).get("value")
        summary["comparison"] = compare(ours, comparison, mode)
    return summary


def best_of(segments: pd.DataFrame, metric: str, mode: Mode) -> Incumbent | None:
    """The best segment of any member; among equals that with the lower loss, then the earliest; None if no value is
    finite.

    Segments that failed, hung or diverged do not count, and neither do NaN and infinities.
    """
    column = f"metric/{metric}"
    if column not in segments:
        return None
    valid = segments[np.isfinite(segments[column]) & (segments["status"] == "ok")]
    if valid.empty:
        return None
    ties = [name for name in [f"metric/{TIE_BREAKER}"] if name in valid and name != column]
    by = [column, *ties, "segment", "member"]
    row = valid.sort_values(by, ascending=[mode == "min", *[True] * (len(by) - 1)]).iloc[0]
    return Incumbent(
        member=int(row["member"]),
        segment=int(row["segment"]),
        value=float(row[column]),
        metrics=_values(row, "metric/"),
        hyperparameters=_values(row, "hp/"),
    )


def timing(segments: pd.DataFrame, counters: Counters) -> dict[str, float | None]:
    """``ideal_s`` is the members' training time spread over the slots without a gap; ``overhead_ratio`` the wall time
    from the first segment's start over that. None where nothing was trained or decided."""
    train_s = float(segments["seconds"].sum())
    ideal_s = train_s / counters.slots
    decided = np.asarray(counters.decision_ms, dtype=float)
    p50, p99 = np.percentile(decided, [50, 99]) if decided.size else (None, None)
    return {
        "wall_s": counters.wall_s,
        "train_s": train_s,
        "ideal_s": ideal_s,
        "overhead_ratio": counters.wall_s / ideal_s if ideal_s > 0 else None,
        "decision_ms_p50": p50,
        "decision_ms_p99": p99,
    }


def counts(segments: pd.DataFrame, decisions: pd.DataFrame, counters: Counters) -> dict[str, int]:
    """``copies`` are segments that started from another member's weights; going back to one's own best is none.
    ``rollbacks`` are returns there by the floor, not those that an agent chose or a failure asked for."""
    copied = segments["copied_from"].notna() & (segments["copied_from"] != segments["member"])
    return {
        "members": int(segments["member"].nunique()),
        "segments": len(segments),
        "copies": int(copied.sum()),
        "failures": counters.failures,
        "restarts": counters.restarts,
        "rollbacks": int((decisions["source"] == FLOOR).sum()),
    }


def compare(value: float | None, other: Comparison, mode: Mode) -> dict[str, Any]:
    """The comparison as the summary holds it: ``ratio`` is our value over the other's (None over zero), ``better``
    whether ours wins (None for a draw, or where one has no value)."""
    comparable = value is not None and math.isfinite(value) and math.isfinite(other.value) and value != other.value
    ratio = None if value is None or not other.value else value / other.value
    return {
        "name": other.name,
        "of": other.of,
        "value": other.value,
        "metrics": dict(other.metrics),
        "segments": other.segments,
        "train_s": other.train_s,
        "ratio": ratio,
        "better": (value < other.value) == (mode == "min") if comparable and value is not None else None,
    }


def comparison_of(
    segments: pd.DataFrame,
    *,
    metric: str,
    mode: Mode,
    name: str = "random search",
    test: Mapping[str, float] | None = None,
) -> Comparison | None:
    """The comparison with another run, from its ``segments.parquet``; None if it reached nothing."""
    best = best_of(segments, metric, mode)
    if best is None:
        return None
    return Comparison(
        name=name,
        value=best.value,
        metrics={**best.metrics, **(test or {})},
        segments=len(segments),
        train_s=float(segments["seconds"].sum()),
    )


def _best(
    best: Incumbent, *, path: str | None, test: Mapping[str, float], delivered: Mapping[str, Any] | None
) -> dict[str, Any]:
    found = {
        "member": best.member,
        "segment": best.segment,
        "value": best.value,
        "metrics": {**best.metrics, **test},
        "hyperparameters": dict(best.hyperparameters),
        "path": path,
    }
    if delivered is None:
        return found
    told = ("member", "segment", "value", "hyperparameters", "temperature", "uniform", "parts", "refit", "checkpoint")
    return {
        **found,
        "checkpoint": {"value": best.value, "metrics": dict(best.metrics)},
        **{name: delivered[name] for name in told if name in delivered},
        "metrics": {**best.metrics, **delivered["metrics"], **test},
    }


def origin(best: Mapping[str, Any]) -> str:
    """What ``summary["best"]`` is, in words."""
    parts, calibration = best.get("parts", ()), Calibration.read(best)
    found = f"member {best['member']} after segment {best['segment']}"
    if len(parts) > 1:
        found = f"the average of {len(parts)} checkpoints around that of {found}"
    if "refit" in best:
        copies = best["refit"]["copies"]
        told = f", then trained{f' in {copies} copies' if copies > 1 else ''} on"
        found += f"{told} {best['refit']['examples']:,} rows, validation's too" if copies else " (a refit failed)"
    return found if calibration == Calibration() else f"{found}, with {calibration.in_words()}"


def refit_cost(summary: Mapping[str, Any] | None) -> tuple[int, float]:
    """Segments and training seconds of the refit of a run; zeros where it has none."""
    refit = ((summary or {}).get("best") or {}).get("refit") or {}
    return refit.get("segments", 0), refit.get("train_s", 0.0)


def cost(summary: Mapping[str, Any]) -> tuple[int, float]:
    """Segments and training seconds of a run, those of its refit included."""
    segments, seconds = refit_cost(summary)
    return summary["counts"]["segments"] + segments, summary["timing"]["train_s"] + seconds


def instead_of(best: Mapping[str, Any]) -> tuple[str, float] | None:
    """What else the run could have delivered instead of ``summary["best"]``, in a word, and its value: the model before
    its refit, or the best checkpoint; None where it is that."""
    if best.get("refit", {}).get("copies"):
        return "before", best["refit"]["before"]
    return ("alone", best["checkpoint"]["value"]) if "checkpoint" in best else None


def _values(row: pd.Series, prefix: str) -> dict[str, Any]:
    """The row's cells under ``prefix`` as plain values, without the empty ones."""
    cells = {str(name).removeprefix(prefix): cell for name, cell in row.items() if str(name).startswith(prefix)}
    return {name: python_value(cell) for name, cell in cells.items() if not pd.isna(cell)}
