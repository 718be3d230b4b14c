"""``summary.json``: the results of a run, computed from its tables and a few numbers.

Pure functions of frames, so that a summary can be computed again from any run directory, or for a part of a run.
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
    """Numbers for the summary that are not in the tables.

    Attributes:
        wall_s: seconds from the first segment's start to the last one's end, over all sessions of a resumed run.
        slots: number of trials that can run at once.
        decision_ms: milliseconds that decisions took: one entry per decision, or a representative sample.
        failures: number of segments that failed, hung or diverged, including those that were trained again.
        restarts: how often a member went back to its own checkpoint, or to its start, after a failure.
    """

    wall_s: float
    slots: int
    decision_ms: Sequence[float] = ()
    failures: int = 0
    restarts: int = 0


@dataclass(frozen=True, kw_only=True)
class AgentSummary:
    """The agent: name of its algorithm, its checkpoint inside the run directory, and number of transitions seen."""

    algorithm: str
    checkpoint: str | None = None
    transitions: int = 0


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What another method reached with the same budget.

    Attributes:
        name: the method, as it is named in sentences.
        value: its value of the metric.
        metrics: its metrics on validation and test.
        segments: number of segments that it trained, of all members together.
        train_s: their training seconds.
        of: whether ``value`` is that of its best member or of its ensemble; it is compared with our value of the same.
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
        best_path: path of the best model inside the run directory.
        incumbent: the checkpoint that this model comes from; default: the best row of the table. (They can differ if a
            member trained a segment twice.)
        delivered: ``Delivered.summary``, if this model is more than a checkpoint. Then ``best`` describes the model,
            and ``checkpoint`` inside it the checkpoint alone.
        test: metrics of this model on the test split, which are added to its validation metrics.
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
        best_value = None if best is None else summary["best"]["value"]
        ours = best_value if comparison.of == "best" else (ensemble or {}).get("value")
        summary["comparison"] = compare(ours, comparison, mode)
    return summary


def best_of(segments: pd.DataFrame, metric: str, mode: Mode) -> Incumbent | None:
    """The best segment of any member; None if there is no finite value.

    Ties go to the lower loss, then to the earlier segment, then to the lower member. Segments that failed, hung or
    diverged do not count, and neither do NaN and infinities.
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
    """``ideal_s`` is the members' training time divided by the slots, as if these were never idle; ``overhead_ratio``
    is the wall time from the first segment's start, divided by ``ideal_s``. Values are None if nothing was trained or
    decided."""
    train_s = float(segments["seconds"].sum())
    ideal_s = train_s / counters.slots
    decision_ms = np.asarray(counters.decision_ms, dtype=float)
    p50, p99 = np.percentile(decision_ms, [50, 99]) if decision_ms.size else (None, None)
    return {
        "wall_s": counters.wall_s,
        "train_s": train_s,
        "ideal_s": ideal_s,
        "overhead_ratio": counters.wall_s / ideal_s if ideal_s > 0 else None,
        "decision_ms_p50": p50,
        "decision_ms_p99": p99,
    }


def counts(segments: pd.DataFrame, decisions: pd.DataFrame, counters: Counters) -> dict[str, int]:
    """``copies`` are segments that started from another member's weights; a return to a member's own best is none.
    ``rollbacks`` are such returns made by the floor, not those that the agent chose or that followed a failure."""
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
    """The comparison as an entry of the summary: ``ratio`` is our value divided by the other's (None if that is zero),
    ``better`` whether ours is better (None if they are equal or one is missing)."""
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
    test: Mapping[str, float] | None = None,
) -> Comparison:
    """The comparison with a random search, from its ``segments.parquet``; its value is NaN if it reached no finite
    one."""
    best = best_of(segments, metric, mode)
    return Comparison(
        value=math.nan if best is None else best.value,
        metrics={} if best is None else {**best.metrics, **(test or {})},
        segments=len(segments),
        train_s=float(segments["seconds"].sum()),
    )


def _best(
    best: Incumbent, *, path: str | None, test: Mapping[str, float], delivered: Mapping[str, Any] | None
) -> dict[str, Any]:
    checkpoint = {
        "member": best.member,
        "segment": best.segment,
        "value": best.value,
        "metrics": {**best.metrics, **test},
        "hyperparameters": dict(best.hyperparameters),
        "path": path,
    }
    if delivered is None:
        return checkpoint
    keys = ("member", "segment", "value", "hyperparameters", "temperature", "uniform", "parts", "refit", "checkpoint")
    return {
        **checkpoint,
        "checkpoint": {"value": best.value, "metrics": dict(best.metrics)},
        **{name: delivered[name] for name in keys if name in delivered},
        "metrics": {**best.metrics, **delivered["metrics"], **test},
    }


def origin(best: Mapping[str, Any]) -> str:
    """A description of the model in ``summary["best"]``: where its weights come from, and its calibration."""
    parts, calibration = best.get("parts", ()), Calibration.read(best)
    text = f"member {best['member']} after segment {best['segment']}"
    if len(parts) > 1:
        text = f"the average of {len(parts)} checkpoints around that of {text}"
    if "refit" in best:
        copies = best["refit"]["copies"]
        trained = f", then trained{f' in {copies} copies' if copies > 1 else ''} on"
        text += f"{trained} {best['refit']['examples']:,} rows, validation's too" if copies else " (a refit failed)"
    return text if calibration == Calibration() else f"{text}, with {calibration.in_words()}"


def refit_cost(summary: Mapping[str, Any] | None) -> tuple[int, float]:
    """Segments and training seconds of a run's refit; zeros if it has none."""
    refit = ((summary or {}).get("best") or {}).get("refit") or {}
    return refit.get("segments", 0), refit.get("train_s", 0.0)


def cost(summary: Mapping[str, Any]) -> tuple[int, float]:
    """Segments and training seconds of a run, including its refit."""
    segments, seconds = refit_cost(summary)
    return summary["counts"]["segments"] + segments, summary["timing"]["train_s"] + seconds


def instead_of(best: Mapping[str, Any]) -> tuple[str, float] | None:
    """The alternative to the delivered model ``summary["best"]``, and its value: ``"before"``, the model before its
    refit, or ``"alone"``, the best checkpoint. None if the best checkpoint was delivered."""
    if best.get("refit", {}).get("copies"):
        return "before", best["refit"]["before"]
    return ("alone", best["checkpoint"]["value"]) if "checkpoint" in best else None


def _values(row: pd.Series, prefix: str) -> dict[str, Any]:
    """The row's cells in columns that begin with ``prefix``, as Python values, without the empty ones."""
    cells = {str(name).removeprefix(prefix): cell for name, cell in row.items() if str(name).startswith(prefix)}
    return {name: python_value(cell) for name, cell in cells.items() if not pd.isna(cell)}
