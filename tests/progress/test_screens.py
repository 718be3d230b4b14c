from __future__ import annotations

import io
import math
from copy import deepcopy
from typing import Any

import pytest
from rich.console import Console, RenderableType

from raytune_rl.progress.board import Board, Plan, View
from raytune_rl.progress.screens import final_screen, live_screen, progress_line, verdict
from raytune_rl.records import Incumbent
from tests.rundir.steps import report, step

PLAN = Plan(
    name="quickstart",
    members=8,
    metric="validation_loss",
    mode="min",
    directory="results/quickstart/now",
    hyperparameters=("learning_rate", "weight_decay", "dropout"),
    segments=20,
    algorithm="PPO",
)
SUMMARY: dict[str, Any] = {
    "best": {
        "member": 3,
        "segment": 17,
        "value": 0.0812,
        "metrics": {"validation_loss": 0.0812, "test_loss": 0.0911},
        "hyperparameters": {"learning_rate": 3.2e-4, "activation": "relu"},
        "path": "best",
    },
    "timing": {
        "wall_s": 108.2,
        "train_s": 197.0,
        "ideal_s": 98.5,
        "overhead_ratio": 1.0986,
        "decision_ms_p50": 0.83,
        "decision_ms_p99": 4.2,
    },
    "counts": {"members": 8, "segments": 160, "copies": 21, "failures": 1, "restarts": 0, "rollbacks": 2},
    "agent": {"algorithm": "PPO", "checkpoint": "agent", "transitions": 152},
    "comparison": {
        "name": "random search",
        "value": 0.118,
        "metrics": {"test_loss": 0.131},
        "segments": 160,
        "train_s": 196.0,
        "ratio": 0.688,
        "better": True,
    },
}


def lines(renderable: RenderableType, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=50, color_system=None, force_terminal=True)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def view(members: int, plan: Plan = PLAN) -> View:
    board = Board(Plan(**{**vars(plan), "members": members}))
    values = {"learning_rate": 3.2e-4, "weight_decay": 0.01, "dropout": 0.25}
    for member in range(members):
        metrics = {"validation_loss": 0.5 - member / 1000}
        best = Incumbent(
            member=member, segment=4, value=metrics["validation_loss"], metrics=metrics, hyperparameters=values
        )
        status = "failed" if member == 5 else "ok"
        board.update(step(report(member, 4, metrics=metrics, hyperparameters=values, status=status), incumbent=best))
    return board.view()


def changed(**changes: Any) -> dict[str, Any]:
    """``SUMMARY`` with other fields in its comparison."""
    summary = deepcopy(SUMMARY)
    summary["comparison"].update(changes)
    return summary


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("members", [1, 8, 20, 64])
def test_the_live_screen_fits(width: int, members: int) -> None:
    found = lines(live_screen(view(members), width, 40), width)
    assert max(len(line) for line in found) <= width
    assert len(found) <= 6 + (members if members <= 20 else 11)


def test_the_live_screen_shows_what_matters() -> None:
    text = "\n".join(lines(live_screen(view(8), 120), 120))
    for part in ("quickstart", "segment 5/20", "elapsed", "left", "reports/s", "best validation_loss 0.493", "3.2e-4"):
        assert part in text
    assert "failed" in text and "1 failure" in text and "8 decisions rewarded" in text
    assert "PPO version 4" in text


def test_a_large_population_shows_its_best() -> None:
    found = lines(live_screen(view(64), 120), 120)
    members = [int(line.split()[0]) for line in found if line.strip()[:1].isdigit()]
    assert members == list(range(63, 53, -1))
    assert any("median of 54 more" in line for line in found)


@pytest.mark.parametrize("height", [12, 24])
def test_a_low_terminal_is_not_overrun(height: int) -> None:
    assert len(lines(live_screen(view(64), 80, height))) <= height - 1
    assert len(lines(live_screen(view(18), 80, height))) <= height - 1


def test_before_the_first_report() -> None:
    assert "waiting for the first reports" in "\n".join(lines(live_screen(Board(PLAN).view(), 80)))


def test_unknown_length() -> None:
    endless = Plan(**{**vars(PLAN), "segments": None})
    assert any("--:-- left" in line for line in lines(live_screen(view(2, endless), 80)))
    assert "reports=2 " in progress_line(view(2, endless))


def test_names_are_not_markup() -> None:
    odd = Plan(**{**vars(PLAN), "name": "[red]", "metric": "[bold]", "hyperparameters": ("[/]",)})
    assert any("[red]" in line for line in lines(live_screen(view(2, odd), 120), 120))
    summary = deepcopy(SUMMARY)
    summary["best"]["hyperparameters"] = {"[/]": "[/red]"}
    assert any("[/]" in line and "[/red]" in line for line in lines(final_screen(odd, summary)))


def test_the_line_of_a_log() -> None:
    line = progress_line(view(8))
    assert line.startswith("progress segment=5/20 reports=8/160 best_validation_loss=0.493 best_member=7 elapsed=0:0")
    assert line.endswith("copies=0 failures=1 rollbacks=0 agent_version=4")
    assert "best_validation_loss=- best_member=-" in progress_line(Board(PLAN).view())


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_final_screen(width: int) -> None:
    found = lines(final_screen(PLAN, SUMMARY), width)
    assert max(len(line) for line in found) <= width
    text = " ".join(" ".join(found).split())
    assert "test_loss 0.0911, 30% better (lower) than random search with the same budget (0.131)." in text
    for part in (
        "Best: member 3 after segment 17",
        "learning_rate 3.2e-4",
        "test_loss 0.0911",
        "raytune_rl (PPO) 0.0812 0.0911 160 3 min 17 s",
        "random search 0.118 0.131 160 3 min 16 s",
        "ratio 0.688 0.695",
        "1 min 48 s for 3 min 17 s of training, 1.10 times the ideal 98.5 s; decisions 0.8 ms (p99 4.2)",
        "8 members, 160 segments, 21 copies, 1 failure, 0 restarts, 2 rollbacks",
        "PPO, 152 transitions",
        "Run results/quickstart/now",
        'Load model = raytune_rl.load("results/quickstart/now")',
    ):
        assert part in text


def test_a_long_name_of_the_agent_leaves_the_numbers_whole() -> None:
    plan = Plan(**{**vars(PLAN), "algorithm": "Pretrained('/home/somebody/results/meta/best', learn=True)"})
    (row,) = [line for line in lines(final_screen(plan, SUMMARY)) if line.startswith("raytune_rl (Pre")]
    assert "0.0812" in row and "0.0911" in row and "…" in row.split("0.0812")[0]


def test_a_network_that_no_file_can_name_is_asked_for() -> None:
    text = "\n".join(lines(final_screen(Plan(**{**vars(PLAN), "network": "make_net"}), SUMMARY)))
    assert 'raytune_rl.load("results/quickstart/now", network=make_net)' in text


def test_other_candidates_are_not_loaded_but_found() -> None:
    text = "\n".join(lines(final_screen(Plan(**{**vars(PLAN), "loadable": False}), SUMMARY)))
    assert "raytune_rl.load" not in text and "results/quickstart/now/best" in text


@pytest.mark.parametrize(
    ("comparison", "sentence"),
    [
        ({"value": 0.0812, "better": None}, "0.0812, the same as random search with the same budget (0.0812)."),
        ({"value": 0.08, "better": False}, "0.0812, 1.5% worse (higher) than random search with the same"),
        ({"value": -1.0, "better": False}, "0.0812, 1.081 worse (higher) than random search with the same"),
        (
            {"value": None, "better": None},
            "0.0812; random search with the same budget reached no finite validation_loss.",
        ),
        ({"value": math.nan, "better": None}, "0.0812; random search with the same budget reached no finite"),
        ({"value": 0.0, "better": False}, "0.0812, 0.0812 worse (higher) than random search with the same"),
    ],
)
def test_the_verdict_is_honest(comparison: dict[str, Any], sentence: str) -> None:
    assert sentence in verdict(PLAN, changed(metrics={}, **comparison)).plain


def test_test_data_decide_where_both_have_been_tested() -> None:
    """By their validation values, which chose them, they may be the other way round."""
    text = verdict(PLAN, changed(value=0.08, better=False, metrics={"test_loss": 0.1})).plain
    assert text.startswith("quickstart: test_loss 0.0911, 8.9% better (lower) than random search")
    text = verdict(PLAN, changed(value=0.09, better=True, metrics={"test_loss": 0.09})).plain
    assert text.startswith("quickstart: test_loss 0.0911, 1.2% worse (higher) than random search")


def test_a_run_without_comparison_or_result() -> None:
    alone = {name: value for name, value in SUMMARY.items() if name != "comparison"}
    assert verdict(PLAN, alone).plain == "quickstart: validation_loss 0.0812, reached by member 3 after segment 17."
    assert "Same budget" not in "\n".join(lines(final_screen(PLAN, alone)))
    nothing = {**alone, "best": None, "timing": dict.fromkeys(SUMMARY["timing"]) | {"wall_s": 3.0, "train_s": 0.0}}
    text = " ".join(lines(final_screen(PLAN, nothing)))
    assert "no member reached a valid validation_loss" in text and "load" not in text


def test_a_summary_that_was_read_back_is_shown_too() -> None:
    """JSON has null for NaN."""
    summary = changed(ratio=None, value=None, better=None, train_s=None)
    summary["best"]["metrics"]["validation_loss"] = None
    assert math.isfinite(len(lines(final_screen(PLAN, summary))))


ENSEMBLE: dict[str, Any] = {
    "value": 0.0701,
    "members": [{"member": 3, "segment": 17, "origin": "best"}, {"member": 1, "segment": 19, "origin": "final"}],
    "weights": [0.75, 0.25],
    "metrics": {"validation_loss": 0.0701, "test_loss": 0.0822},
    "path": "ensemble",
}


def test_the_ensemble_stands_below_the_best_member() -> None:
    for summary in (SUMMARY | {"ensemble": ENSEMBLE}, {**SUMMARY, "ensemble": ENSEMBLE, "comparison": None}):
        found = lines(final_screen(PLAN, summary))
        rows = [line.split() for line in found if line.startswith(("raytune_rl (PPO)", "ensemble of 2"))]
        assert rows[0][2:4] == ["0.0812", "0.0911"] and rows[1][3:5] == ["0.0701", "0.0822"]
        assert 'load("results/quickstart/now", ensemble=True)' in " ".join(found)


def test_an_ensemble_that_is_no_better_is_not_recommended() -> None:
    found = " ".join(lines(final_screen(PLAN, SUMMARY | {"ensemble": {**ENSEMBLE, "value": 0.5}})))
    assert 'load("results/quickstart/now")' in found


def test_a_deep_ensemble_is_compared_with_the_ensemble() -> None:
    other = changed(name="deep ensemble", of="ensemble", value=0.075, better=True) | {"ensemble": ENSEMBLE}
    expected = "test_loss of the ensemble 0.0822, 37% better (lower) than deep ensemble with the same budget"
    assert expected in verdict(PLAN, other).plain
    without = changed(name="deep ensemble", of="ensemble", value=0.075, better=None)
    assert "reached by member 3" in verdict(PLAN, without).plain


def test_an_ensemble_of_one_is_no_reason_to_load_it() -> None:
    one = ENSEMBLE | {"members": [{"member": 3, "segment": 17, "origin": "best"}], "weights": [1.0]}
    assert "ensemble=True" not in " ".join(lines(final_screen(PLAN, SUMMARY | {"ensemble": one})))


def words(shown: list[str]) -> str:
    return " ".join(" ".join(shown).split())


def test_beside_a_refit_the_one_model_is_what_is_loaded() -> None:
    """It is judged by rows that it has not seen, and the ensemble by rows that chose it."""
    refit = {"copies": 8, "examples": 1438, "before": 0.09, "segments": 64, "train_s": 20.0}
    found = words(
        lines(final_screen(PLAN, SUMMARY | {"best": SUMMARY["best"] | {"refit": refit}, "ensemble": ENSEMBLE}))
    )
    assert 'load("results/quickstart/now")' in found and "ensemble=True" not in found
    assert "then trained in 8 copies on 1,438 rows, validation's too (before 0.09)" in found
    assert "64 segments of the refit" in found and "raytune_rl (PPO) 0.0812 0.0911 224 3 min 37 s" in found
