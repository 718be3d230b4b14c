from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from raytune_rl import BadInput
from raytune_rl.analysis import Run
from raytune_rl.analysis.sections import results
from raytune_rl.analysis.verdict import verdict, verdict_on


def with_summary(run: Run, *, best: Mapping[str, Any], comparison: Mapping[str, Any] | None) -> Run:
    assert run.summary is not None
    summary = json.loads(json.dumps(run.summary))
    summary["best"] |= best
    summary["comparison"] = None if comparison is None else {**summary["comparison"], **comparison}
    return replace(run, summary=summary)


def test_better_than_random_search(run: Run) -> None:
    tests = {"loss": 0.1, "test_loss": 0.2, "test_accuracy": 0.9}
    ours = with_summary(
        run,
        best={"value": 0.1, "metrics": tests},
        comparison={"value": 0.2, "better": True, "metrics": {"test_loss": 0.25, "test_accuracy": 0.95}},
    )
    assert verdict(ours) == (
        "paper reached a loss of 0.1 (lower is better), 50% better (lower) than random search with the same budget "
        "(0.2).",
        "On test data, which no choice has seen, test_loss is 0.2 against 0.25, 20% better (lower), and test_accuracy "
        "0.9 against 0.95; this is one seed, so a difference may be chance.",
    )


def test_worse_is_said(run: Run) -> None:
    ours = with_summary(run, best={"value": 0.3}, comparison={"value": 0.2, "better": False})
    assert "50% worse (higher) than random search" in verdict(ours)[0]


def test_a_deep_ensemble_is_compared_with_the_ensemble(run: Run) -> None:
    other = {"name": "deep ensemble", "of": "ensemble", "value": 0.2, "better": True, "metrics": {"test_loss": 0.25}}
    ours = with_summary(run, best={"value": 0.3, "metrics": {"test_loss": 0.4}}, comparison=other)
    assert ours.summary is not None
    metrics = {"loss": 0.1, "test_loss": 0.2, "test_ece": 0.01}
    members = [{"member": 1, "segment": 2, "origin": "best"}]
    ensemble = {"value": 0.1, "members": members, "weights": [1.0], "metrics": metrics, "path": "ensemble"}
    ours = replace(ours, summary={**ours.summary, "ensemble": ensemble})
    first, second = verdict(ours)
    assert "a loss of 0.1 with its ensemble (lower is better), 50% better (lower) than deep ensemble" in first
    assert "test_loss is 0.2 against 0.25, 20% better" in second
    table = results(ours)
    assert table is not None and table.head[2:] == ("its ensemble of 1", "deep ensemble")
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["test_loss"] == ("0.4", "0.2", "0.25") and rows["test_ece"] == ("-", "0.01", "-")


def test_test_data_that_disagree_are_said(run: Run) -> None:
    ours = with_summary(
        run,
        best={"value": 0.1, "metrics": {"test_loss": 0.3}},
        comparison={"value": 0.2, "better": True, "metrics": {"test_loss": 0.2}},
    )
    assert "test_loss is 0.3 against 0.2, 50% worse (higher) and so the other way round;" in verdict(ours)[1]


def test_a_draw_another_budget_and_no_test_data(run: Run) -> None:
    draw = with_summary(run, best={"value": 0.2, "metrics": {}}, comparison={"value": 0.2, "better": None})
    assert "the same as random search with the same budget (0.2)." in verdict(draw)[0]
    assert verdict(draw)[1].startswith("These are values by which the best were chosen, and this is one seed")
    missing = with_summary(run, best={"value": 0.2, "metrics": {}}, comparison={"value": None, "better": None})
    assert verdict(missing)[0].endswith("; random search with the same budget reached no finite value.")
    budget = with_summary(run, best={"value": 0.1}, comparison={"value": 0.2, "better": True, "segments": 50})
    assert "than random search with 50 segments (0.2)" in verdict(budget)[0]


def test_without_a_comparison_nothing_is_claimed(run: Run) -> None:
    first, second = verdict(with_summary(run, best={"value": 0.1}, comparison=None))
    assert run.best is not None
    assert first == f"paper reached a loss of 0.1 (lower is better), with member {run.best.member} after segment 11."
    assert "test_loss is 0.4; nothing ran beside it, so it does not show what the agent was worth" in second


def test_a_run_that_goes_on_has_no_verdict(other: Run) -> None:
    first, second = verdict(other)
    assert "is not finished (96 of 96 segments are trained); its best loss so far is" in first
    assert second.startswith("There is no verdict before it has ended")


def test_nothing_trained_and_nothing_valid(run: Run) -> None:
    nothing = replace(run, segments=run.segments.iloc[:0], summary=None)
    assert verdict(nothing)[0] == "paper has trained nothing yet."
    wrong = replace(run, segments=run.segments.assign(status="failed"), summary={**(run.summary or {}), "best": None})
    assert verdict(wrong) == (
        "paper reached no finite loss in 96 segments.",
        "96 of them failed, hung or diverged; run.log in the run directory says more.",
    )
    silent = replace(run, segments=run.segments.drop(columns="metric/loss"), summary=None)
    assert verdict(silent)[1] == "2 of them failed, hung or diverged; run.log in the run directory says more."


def test_several_runs(run: Run, other: Run) -> None:
    first, second = verdict_on([other, run])
    assert first.startswith("Of 2 runs, PBT(quantile=0.25) reached the best loss, ")
    assert second == "Not every agent ran more than once, so differences may be chance."
    assert verdict_on([run]) == verdict(run)


def test_repeated_runs_are_averaged_by_agent(run: Run, other: Run) -> None:
    def seeded(a: Run, seed: int) -> Run:
        return replace(a, experiment={**a.experiment, "seed": seed})

    assert run.best is not None
    second = verdict_on([seeded(r, s) for r in (run, other) for s in (0, 1)])[1]
    assert second.startswith(
        f"By agent, the mean over runs is PBT(quantile=0.25) {run.best.value:.4g} (2 runs), Random "
    )
    alone = verdict_on([seeded(run, s) for s in (0, 1)])[1]
    assert alone.startswith("All have the same agent; their mean is") and alone.endswith("the standard deviation 0.")


def test_other_budgets_are_said_first(run: Run, other: Run) -> None:
    short = replace(other, segments=other.segments.iloc[:-4])
    assert verdict_on([run, short])[1].startswith("They did not train equally long (92 to 96 segments), so compare")


def test_runs_without_any_value(other: Run) -> None:
    wrong = replace(other, segments=other.segments.assign(status="failed"))
    assert verdict_on([wrong, replace(wrong, directory="b")])[0] == "None of the 2 runs has reached a finite loss."


def test_only_the_same_metric_compares(run: Run, other: Run) -> None:
    fields = {**other.fields, "metric": "accuracy"}
    with pytest.raises(BadInput, match="same metric"):
        verdict_on([run, replace(other, experiment={**other.experiment, "experiment": fields})])


def test_every_verdict_is_two_sentences(run: Run, other: Run) -> None:
    for pair in (verdict(run), verdict(other), verdict_on([run, other])):
        assert len(pair) == 2 and all(text.endswith(".") and "  " not in text for text in pair)
