from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from raytune_rl.records import Incumbent
from raytune_rl.rundir.layout import SEGMENTS, SUMMARY, RunDirectory
from raytune_rl.rundir.summary import (
    AgentSummary,
    Comparison,
    Counters,
    best_of,
    build_summary,
    compare,
    comparison_of,
    cost,
    counts,
    origin,
    timing,
)
from raytune_rl.rundir.tables import TableWriter
from tests.rundir.steps import ACTIONS, FEATURES, HYPERPARAMETERS, report, step

NAN, INF = math.nan, math.inf
TYPES = {"lr": pa.float64(), "layers": pa.int64(), "activation": pa.string(), "nesterov": pa.bool_()}
COUNTERS = Counters(wall_s=3.0, slots=2, decision_ms=(1.0, 2.0, 3.0), failures=4, restarts=3)
DECIDED = pd.DataFrame({"source": ["keep", "floor", "own_best", "best"]})
AGENT = AgentSummary(algorithm="PPO", checkpoint="agent", transitions=12)


def frame(*reports: object) -> pd.DataFrame:
    """Reports as the tables hold them."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        directory = RunDirectory(Path(folder) / "run").create()
        tables = TableWriter(directory, hyperparameters=TYPES, features=FEATURES, actions=ACTIONS)
        tables.write(step(*reports))  # type: ignore[arg-type]
        assert tables.flush()
        return directory.read_table(SEGMENTS)


def test_the_best_follows_the_direction() -> None:
    segments = frame(report(0, 0, 0.5), report(1, 0, 0.3), report(2, 1, 0.9))
    lowest, highest = best_of(segments, "loss", "min"), best_of(segments, "loss", "max")
    assert lowest is not None and (lowest.member, lowest.segment, lowest.value) == (1, 0, 0.3)
    assert highest is not None and (highest.member, highest.segment, highest.value) == (2, 1, 0.9)
    assert lowest.hyperparameters == HYPERPARAMETERS
    assert [type(value) for value in lowest.hyperparameters.values()] == [float, int, str, bool]


@pytest.mark.parametrize("mode", ["min", "max"])
def test_nan_infinity_and_failures_never_win(mode: str) -> None:
    segments = frame(
        report(0, 0, NAN),
        report(1, 0, INF),
        report(2, 0, -INF),
        report(3, 0, -1e9, status="diverged"),
        report(4, 0, 1e9, status="failed"),
        report(5, 0, metrics={}, hyperparameters={}, status="failed"),
        report(6, 0, 0.5, metrics={"loss": 0.5}),
    )
    best = best_of(segments, "loss", mode)  # type: ignore[arg-type]
    assert best is not None and best.member == 6


def test_the_earliest_of_equals_wins() -> None:
    best = best_of(frame(report(0, 5, 0.5), report(3, 2, 0.5), report(2, 2, 0.5)), "loss", "max")
    assert best is not None and (best.member, best.segment) == (2, 2)


def test_no_best_where_nothing_is_valid() -> None:
    assert best_of(frame(report(0, 0, NAN)), "loss", "min") is None
    assert best_of(frame(report(0, 0)), "accuracy", "max") is None
    assert best_of(frame(), "loss", "min") is None
    random_search = comparison_of(frame(), metric="loss", mode="min")
    assert math.isnan(random_search.value) and random_search.segments == len(frame())


def test_timing() -> None:
    segments = frame(report(0, 0, seconds=1.0), report(1, 0, seconds=3.0))
    found = timing(segments, COUNTERS)
    assert found == {
        "wall_s": 3.0,
        "train_s": 4.0,
        "ideal_s": 2.0,
        "overhead_ratio": 1.5,
        "decision_ms_p50": 2.0,
        "decision_ms_p99": pytest.approx(2.98),
    }
    nothing = timing(frame(), Counters(wall_s=0.1, slots=2))
    assert nothing["overhead_ratio"] is None and nothing["decision_ms_p50"] is None


def test_counts_copies_between_members_only() -> None:
    segments = frame(
        report(0, 0), report(0, 1, copied_from=1, copied_segment=0), report(1, 0), report(1, 1, copied_from=1)
    )
    assert counts(segments, DECIDED, COUNTERS) == {
        "members": 2,
        "segments": 4,
        "copies": 1,
        "failures": 4,
        "restarts": 3,
        "rollbacks": 1,
    }


def test_the_summary_is_the_contract_and_standard_json(tmp_path: Path) -> None:
    segments = frame(report(0, 0, 0.5), report(1, 0, 0.25, metrics={"loss": 0.25, "accuracy": 0.9}))
    summary = build_summary(
        segments,
        DECIDED,
        metric="loss",
        mode="min",
        counters=COUNTERS,
        agent=AGENT,
        best_path="best",
        test={"test_loss": 0.3},
        comparison=Comparison(value=0.5, segments=2, train_s=1.0),
    )
    assert summary["best"] == {
        "member": 1,
        "segment": 0,
        "value": 0.25,
        "metrics": {"loss": 0.25, "accuracy": 0.9, "test_loss": 0.3},
        "hyperparameters": dict(HYPERPARAMETERS),
        "path": "best",
    }
    assert summary["agent"] == {"algorithm": "PPO", "checkpoint": "agent", "transitions": 12}
    assert list(summary) == ["best", "timing", "counts", "agent", "comparison"]
    directory = RunDirectory(tmp_path / "run").create()
    directory.write_json(SUMMARY, summary)
    assert directory.read_json(SUMMARY) == {"schema_version": 1, **json.loads(json.dumps(summary))}


def test_the_model_that_was_saved_is_the_one_described() -> None:
    saved = Incumbent(member=7, segment=3, value=0.1, metrics={"loss": 0.1}, hyperparameters={"lr": 1.0})
    summary = build_summary(
        frame(report(0, 0, 0.5)), DECIDED, metric="loss", mode="min", counters=COUNTERS, agent=AGENT, incumbent=saved
    )
    assert (summary["best"]["member"], summary["best"]["value"]) == (7, 0.1)
    assert "comparison" not in summary
    assert origin(summary["best"]) == "member 7 after segment 3"


def test_an_average_is_described_as_what_it_is_beside_the_checkpoint() -> None:
    parts = [{"member": 0, "segment": 0, "share": 0.7}, {"member": 1, "segment": 0, "share": 0.3}]
    delivered = {"value": 0.4, "metrics": {"loss": 0.4}, "temperature": 1.25, "uniform": 0.0, "parts": parts}
    other = Comparison(value=0.45, segments=1, train_s=1.0)
    given = {"metric": "loss", "mode": "min", "counters": COUNTERS, "agent": AGENT, "comparison": other}
    segments = frame(report(0, 0, 0.5), report(1, 0, 0.6))
    summary = build_summary(segments, DECIDED, **given, delivered=delivered, test={"test_loss": 0.3})  # type: ignore[arg-type]
    best = summary["best"]
    assert (best["value"], best["metrics"]["loss"], best["metrics"]["test_loss"]) == (0.4, 0.4, 0.3)
    assert best["checkpoint"]["value"] == best["checkpoint"]["metrics"]["loss"] == 0.5
    assert (best["parts"], best["temperature"]) == (parts, 1.25)
    assert summary["comparison"]["better"] is True
    assert (
        origin(best)
        == "the average of 2 checkpoints around that of member 0 after segment 0, with a temperature of 1.25"
    )


@pytest.mark.parametrize(
    ("copies", "words"),
    [
        (4, ", then trained in 4 copies on 1,438 rows, validation's too"),
        (1, ", then trained on 1,438 rows, validation's too"),
        (0, " (a refit failed)"),
    ],
)
def test_a_refit_is_told_and_counted(copies: int, words: str) -> None:
    refit = {"copies": copies, "examples": 1438, "segments": 6, "train_s": 2.5}
    plain = {"value": 0.4, "metrics": {"loss": 0.4}, "temperature": 1.0, "uniform": 0.0, "parts": []}
    given = {"metric": "loss", "mode": "min", "counters": COUNTERS, "agent": AGENT}
    segments = frame(report(0, 0, 0.5), report(1, 0, 0.6))
    alone = build_summary(segments, DECIDED, **given, delivered=plain)  # type: ignore[arg-type]
    summary = build_summary(segments, DECIDED, **given, delivered={**plain, "refit": refit})  # type: ignore[arg-type]
    assert origin(summary["best"]) == origin(alone["best"]) + words
    assert summary["best"]["refit"] == refit and "refit" not in alone["best"]
    assert cost(alone) == (2, alone["timing"]["train_s"])
    assert cost(summary) == (8, pytest.approx(alone["timing"]["train_s"] + 2.5))


@pytest.mark.parametrize(
    ("ours", "theirs", "mode", "ratio", "better"),
    [
        (0.2, 0.4, "min", 0.5, True),
        (0.2, 0.4, "max", 0.5, False),
        (0.4, 0.4, "max", 1.0, None),
        (0.4, 0.0, "max", None, True),
        (None, 0.4, "min", None, None),
        (0.4, NAN, "min", NAN, None),
    ],
)
def test_comparison(ours: float | None, theirs: float, mode: str, ratio: float | None, better: bool | None) -> None:
    other = Comparison(value=theirs, segments=8, train_s=4.0, metrics={"test_loss": 0.5})
    found = compare(ours, other, mode)  # type: ignore[arg-type]
    assert found["better"] is better
    assert found["ratio"] == (pytest.approx(ratio, nan_ok=True) if ratio is not None else None)
    assert (found["name"], found["segments"], found["metrics"]) == ("random search", 8, {"test_loss": 0.5})


def test_a_comparison_is_taken_from_the_other_runs_table() -> None:
    segments = frame(report(0, 0, 0.5, seconds=1.0), report(1, 0, 0.4, seconds=2.0))
    other = comparison_of(segments, metric="loss", mode="min", test={"test_loss": 0.6})
    assert other == Comparison(value=0.4, segments=2, train_s=3.0, metrics={"loss": 0.4, "test_loss": 0.6})


def test_an_ensemble_is_compared_with_an_ensemble() -> None:
    segments = frame(report(0, 0, 0.5))
    ensemble = {"value": 0.2, "members": [], "weights": [], "metrics": {}, "path": "ensemble"}
    other = Comparison(name="deep ensemble", value=0.4, segments=1, train_s=1.0, of="ensemble")
    given = {"metric": "loss", "mode": "min", "counters": COUNTERS, "agent": AGENT, "comparison": other}
    summary = build_summary(segments, DECIDED, **given, ensemble=ensemble)  # type: ignore[arg-type]
    assert summary["ensemble"] == ensemble
    assert summary["comparison"]["ratio"] == 0.5 and summary["comparison"]["better"] is True
    without = build_summary(segments, DECIDED, **given)  # type: ignore[arg-type]
    assert "ensemble" not in without and without["comparison"]["better"] is None
