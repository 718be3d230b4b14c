"""Decisions reach real trials of Ray Tune, one member each, and what the trials do comes back as reports."""

from __future__ import annotations

import math
import os
import time
from collections import Counter as Count
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ray import tune
from ray.tune.experiment import Trial

from raytune_rl.controller.failures import DIVERGENCE_FACTOR, FailurePolicy
from raytune_rl.tune.adapter import resume_training
from raytune_rl.tune.trials import adapter, changes
from raytune_rl.tune.trials.members import ORIGIN
from raytune_rl.tune.trials.turns import LEAD
from tests.tune.trainables import (
    BreaksOnLoad,
    Counter,
    DiesOnce,
    NanAfterThree,
    Overwriting,
    Rebuilding,
    Refusing,
    Reporting,
    Together,
    WithoutReset,
    counting,
)
from tests.tune.trials.runs import DOWN, UP, Do, fit

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")


@pytest.mark.parametrize("trainable", [Counter, Rebuilding, counting])
def test_a_change_takes_effect_in_the_segment_that_it_opens(trainable: object, tmp_path: Path) -> None:
    results, scheduler = fit(tmp_path, trainable, {(0, 2): Do(UP), (0, 5): Do(UP)}, iterations=7)
    assert not results.errors
    reports = scheduler.reports(0)
    assert [r.segment for r in reports] == list(range(7))
    used = [r.metrics["lr_used"] for r in reports]
    assert used == pytest.approx([0.1, 0.1, 0.16, 0.16, 0.16, 0.256, 0.256])
    assert [r.hyperparameters["lr"] for r in reports] == pytest.approx(used)
    assert reports[-1].metrics["total"] == pytest.approx(sum(used))  # nothing was lost on the way
    assert [r.decision for r in reports] == list(range(7))
    assert [r.metrics["lr_used"] for r in scheduler.reports(1)] == [1.0] * 7


@pytest.mark.parametrize("trainable", [Counter, Rebuilding, Overwriting, counting])
def test_a_copy_brings_the_donors_weights(trainable: object, tmp_path: Path) -> None:
    script = {(0, 4): Do(source="best")}
    results, scheduler = fit(tmp_path, trainable, script, iterations=80, constants={"meet": str(tmp_path / "meet")})
    assert not results.errors
    reports = scheduler.reports(0)
    assert [r.steps for r in reports] == list(range(1, 81))  # its own count
    assert [r.copied_from for r in reports[:6]] == [None] * 4 + [1, None]
    # The donor's total when it was taken, a whole number, and one step with the value that comes along.
    total = reports[4].metrics["total"]
    assert total >= 6.0
    assert total == pytest.approx(round(total))
    assert reports[4].copied_segment is not None
    assert [r.metrics["lr_used"] for r in reports[2:6]] == pytest.approx([0.1, 0.1, 1.0, 1.0])
    assert reports[5].metrics["total"] == pytest.approx(total + 1.0)


def test_the_population_takes_turns_on_fewer_slots(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    constants = {"sleep": 0.1, "place": str(place)}
    lrs = (0.1, 0.2, 0.3, 0.4, 1.0)
    results, scheduler = fit(
        tmp_path, Together, {(1, 2): Do(UP)}, lrs=lrs, iterations=6, constants=constants, reuse_actors=True
    )
    assert not results.errors
    assert len(results) == 5
    for member in range(5):
        assert [r.segment for r in scheduler.reports(member)] == list(range(6))
    # Nobody is left behind: when the first is half way, all have begun.
    half = next(i for i, step in enumerate(scheduler.steps) if step.reports[0].segment == 3)
    assert {step.reports[0].member for step in scheduler.steps[:half]} == set(range(5))


def test_nobody_runs_far_ahead_where_segments_take_no_time(tmp_path: Path) -> None:
    """Starting an actor takes longer than a whole training here."""
    results, scheduler = fit(tmp_path, Counter, lrs=(0.1, 0.2, 0.3, 0.4, 1.0), iterations=40, reuse_actors=True)
    assert not results.errors
    trained = Count({member: 0 for member in range(5)})
    for step in scheduler.steps:
        (report,) = step.reports
        trained[report.member] += 1
        assert trained[report.member] <= min(trained.values()) + LEAD + 1
    assert set(trained.values()) == {40}


def test_a_function_is_interrupted_at_its_checkpoints_only(tmp_path: Path) -> None:
    script = {(0, 1): Do(UP), (0, 2): Do(UP)}
    results, scheduler = fit(tmp_path, counting, script, iterations=12, constants={"every": 3})
    assert not results.errors
    reports = scheduler.reports(0)
    assert [(r.segment, r.steps) for r in reports] == [(0, 3), (1, 6), (2, 9), (3, 12)]
    assert [r.metrics["lr_used"] for r in reports] == pytest.approx([0.1, 0.16, 0.256, 0.256])
    assert reports[1].metrics["total"] == pytest.approx(3 * 0.1 + 3 * 0.16)
    assert scheduler.core.controller.segments == 4  # not 12: segments are as long as checkpoints are apart


@pytest.mark.parametrize("steps", [30, 4])
def test_a_function_without_checkpoints_is_left_alone_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, steps: int
) -> None:
    results, scheduler = fit(
        tmp_path, counting, {(0, 1): Do(UP)}, iterations=30, constants={"every": 0, "steps": steps}
    )
    assert not results.errors
    reports = scheduler.reports(0)
    assert [(r.segment, r.steps) for r in reports] == [(n, n + 1) for n in range(steps)]
    assert {r.metrics["lr_used"] for r in reports} == {r.hyperparameters["lr"] for r in reports} == {0.1}
    assert {r.decision for r in reports} == {0}
    decisions = [step.decisions[0] for step in scheduler.steps]
    assert all(d.source.kind == "keep" and not d.action for d in decisions)
    assert sum("reports no checkpoints" in message for message in caplog.messages) == 1


def test_a_function_without_checkpoints_ends_with_its_budget(tmp_path: Path) -> None:
    results, scheduler = fit(tmp_path, counting, iterations=1000, constants={"every": 0}, segments=12, segment_length=2)
    assert not results.errors
    for member in range(2):
        assert [(r.segment, r.steps) for r in scheduler.reports(member)] == [(n, 2 * n + 2) for n in range(12)]
    assert [result.metrics["training_iteration"] for result in results] == [24, 24]


def test_a_function_whose_checkpoints_end_does_not_go_on_for_ever(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def once(config: dict[str, float]) -> None:
        if tune.get_checkpoint() is None:
            counting({**config, "steps": 1})
        counting({**config, "every": 0})

    results, scheduler = fit(tmp_path, once, iterations=1000, segments=4)
    assert not results.errors
    assert [r.segment for r in scheduler.reports(0)] == list(range(4))
    assert "far apart" in caplog.text


def test_a_function_that_diverges_without_checkpoints_begins_anew(tmp_path: Path) -> None:
    def diverging(config: dict[str, float]) -> None:
        for step in range(1, 100):
            tune.report({"total": math.nan if config["lr"] > 0.5 and step == 3 else 1.0, "lr_used": config["lr"]})

    results, scheduler = fit(tmp_path, diverging, iterations=1000, segments=6)
    assert not results.errors
    reports = scheduler.reports(1)
    assert [r.segment for r in reports] == list(range(6))
    assert [r.status for r in reports] == ["ok", "ok", "diverged", "ok", "ok", "ok"]
    assert reports[-1].metrics["lr_used"] == pytest.approx(DIVERGENCE_FACTOR)


def test_a_copied_checkpoint_says_whose_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tune's snapshot may hold it before our own state does."""
    go_on, given = adapter.start_from, []

    def start_from(trial: Trial, checkpoint: tune.Checkpoint, metrics: Mapping[str, Any]) -> None:
        given.append(metrics)
        go_on(trial, checkpoint, metrics)

    monkeypatch.setattr(adapter, "start_from", start_from)
    script = {(0, 4): Do(source="best")}
    results, scheduler = fit(tmp_path, counting, script, iterations=30, constants={"meet": str(tmp_path / "meet")})
    assert not results.errors
    report = scheduler.reports(0)[4]
    assert report.copied_from == 1
    assert [m[ORIGIN] for m in given] == [{"copied_from": 1, "copied_segment": report.copied_segment}]
    assert not any(ORIGIN in r.metrics for step in scheduler.steps for r in step.reports)


@pytest.mark.parametrize("trainable", [Refusing, WithoutReset])
def test_what_cannot_be_changed_in_place_is_paused(
    trainable: object, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    script = {(0, 2): Do(UP), (0, 3): Do(UP)}
    results, scheduler = fit(tmp_path, trainable, script, iterations=5)
    assert not results.errors
    reports = scheduler.reports(0)
    assert reports[-1].metrics["lr_used"] > 0.15
    used = [r.metrics["lr_used"] for r in reports]
    assert reports[-1].metrics["total"] == pytest.approx(sum(used))
    # A decision that was refused is not claimed to have been in force.
    in_force = [scheduler.core._members._tracks[0].openings[r.segment].values["lr"] for r in reports]
    assert used == pytest.approx(in_force)
    assert ("cannot be changed in place" in caplog.text) == (trainable is Refusing)


def test_a_member_that_diverges_start_from_its_own_best(tmp_path: Path) -> None:
    script = {(0, 2): Do(UP)}
    results, scheduler = fit(tmp_path, NanAfterThree, script, lrs=(0.6, 0.1), iterations=6)
    assert not results.errors
    reports = scheduler.reports(0)
    assert [r.status for r in reports[:4]] == ["ok", "ok", "diverged", "ok"]
    assert reports[3].copied_from == 0
    assert reports[3].metrics["lr_used"] == pytest.approx(DIVERGENCE_FACTOR * reports[2].metrics["lr_used"])


def test_a_member_without_anything_to_go_back_to_is_given_up(tmp_path: Path) -> None:
    results, scheduler = fit(
        tmp_path, NanAfterThree, lrs=(5.0, 0.1), iterations=6, failures=FailurePolicy(max_restarts=0)
    )
    assert not results.errors
    assert [r.status for r in scheduler.reports(0)] == ["ok", "ok", "diverged"]
    assert len(scheduler.reports(1)) == 6


def test_a_killed_process_costs_nothing_but_time(tmp_path: Path) -> None:
    results, scheduler = fit(
        tmp_path,
        DiesOnce,
        {(0, 2): Do(UP), (1, 2): Do(UP)},
        iterations=8,
        max_failures=1,
        constants={"marker": str(tmp_path / "died"), "sleep": 0.02},
        checkpoints=tune.CheckpointConfig(checkpoint_frequency=3),
        copy_every=100,
    )
    assert not results.errors
    assert os.path.exists(tmp_path / "died")
    reports = scheduler.reports(0)
    newest = {r.segment: r for r in reports}
    assert sorted(newest) == list(range(8))
    assert Count(r.segment for r in reports)[3] == 2  # from the checkpoint after three steps
    # What was decided at segment 2 is in force again: Tune alone would have kept it, a rewind must not lose it.
    assert [newest[s].metrics["lr_used"] for s in range(8)] == pytest.approx([0.1] * 2 + [0.16] * 6)
    assert newest[7].metrics["total"] == pytest.approx(0.2 + 6 * 0.16)


def test_code_that_raises_while_it_is_changed_fails_its_trial_only(tmp_path: Path) -> None:
    constants = {"meet": str(tmp_path / "meet")}
    results, scheduler = fit(tmp_path, BreaksOnLoad, {(0, 4): Do(source="best")}, iterations=30, constants=constants)
    assert len(results.errors) == 1
    assert [r.segment for r in scheduler.reports(1)] == list(range(30))
    assert not scheduler.core.controller.members[0].alive


def test_effective_values_are_read_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, scheduler = fit(tmp_path, Reporting, iterations=3)
    assert [r.hyperparameters["lr"] for r in scheduler.reports(0)] == [0.5] * 3
    # Once for each name, by whichever trial reports first.
    assert sum("trains with lr=0.5 where" in message for message in caplog.messages) == 1


def test_members_stop_when_their_segments_are_over(tmp_path: Path) -> None:
    results, scheduler = fit(tmp_path, Counter, iterations=50, segments=4, segment_length=2)
    assert [result.metrics["training_iteration"] for result in results] == [8, 8]
    assert [r.segment for r in scheduler.reports(0)] == [0, 1, 2, 3]


def test_the_last_result_is_reported_although_tune_skips_it(tmp_path: Path) -> None:
    _, scheduler = fit(tmp_path, counting, iterations=50, constants={"steps": 5})
    assert [r.steps for r in scheduler.reports(0)][-1] == 5
    _, scheduler = fit(tmp_path / "two", Counter, iterations=5, segment_length=2)
    last = scheduler.reports(0)[-1]
    assert (last.segment, last.steps, last.done) == (2, 5, False)


@pytest.mark.parametrize(("trainable", "cpus"), [(Counter, 0.5), (counting, 0.5), (counting, 1)])
def test_synchronous_members_wait_for_each_other(trainable: object, cpus: float, tmp_path: Path) -> None:
    script = {(0, 2): Do(source="best"), (1, 2): Do(UP), (2, 2): Do(source="second"), (2, 3): Do(UP)}

    def run(name: str) -> list[tuple[tuple[int, int, float, float], ...]]:
        results, scheduler = fit(
            tmp_path / name, trainable, script, lrs=(0.1, 0.5, 0.2), iterations=5, synchronous=True, cpus=cpus
        )
        assert not results.errors
        generations = [step.reports for step in scheduler.steps[:4]]
        assert all([r.member for r in reports] == [0, 1, 2] for reports in generations)
        assert [{r.segment for r in reports} for reports in generations] == [{0}, {1}, {2}, {3}]
        return [tuple((r.member, r.segment, *r.metrics.values()) for r in reports) for reports in generations]  # type: ignore[misc]

    first, second = run("one"), run("two")
    assert first == second
    # Copies take what the donors had at the barrier, whoever changes first: 0 took member 1's 1.0, 2 took 0's.
    totals = {member: total for member, _, total, *_ in first[2]}
    assert totals[0] == pytest.approx(2 * 0.5 + 0.5)
    assert totals[1] == pytest.approx(2 * 0.5 + 0.8)


def test_a_function_that_waits_outside_keeps_its_newest_checkpoint(tmp_path: Path) -> None:
    """Tune deletes all but the best, which is the oldest here, and the newest, which it must know once only."""
    keep = tune.CheckpointConfig(num_to_keep=1, checkpoint_score_attribute="total", checkpoint_score_order="min")
    lrs = (0.1, 0.5, 0.2)  # one more than there are slots
    results, scheduler = fit(tmp_path, counting, lrs=lrs, iterations=5, synchronous=True, checkpoints=keep)
    assert not results.errors
    for member, lr in enumerate(lrs):
        totals = [report.metrics["total"] for report in scheduler.reports(member)]
        assert totals == pytest.approx([lr * step for step in range(1, 6)])


def test_changes_in_place_and_checkpoints_of_each_report_go_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tune saves and the scheduler changes the same actor, and a driver that lags sees the answers in any order."""

    def lag(controller: object, trial: Trial) -> None:
        resume_training(controller, trial)
        time.sleep(0.05)  # what was asked of the actor has been answered then

    monkeypatch.setattr(changes, "resume_training", lag)
    script = {(m, s): Do(UP if s % 4 else DOWN) for m in range(2) for s in range(2, 30, 2)}  # else they just go on
    keep = tune.CheckpointConfig(checkpoint_frequency=1, num_to_keep=2)
    results, scheduler = fit(tmp_path, Counter, script, iterations=30, checkpoints=keep)
    assert not results.errors
    assert all(len(scheduler.reports(member)) == 30 for member in range(2))


def test_a_member_that_ends_early_holds_no_barrier(tmp_path: Path) -> None:
    def uneven(config: dict[str, float]) -> None:
        counting({**config, "steps": 2 if config["lr"] < 0.5 else 5})

    results, scheduler = fit(tmp_path, uneven, iterations=50, synchronous=True)
    assert not results.errors
    assert [r.steps for r in scheduler.reports(1)] == [1, 2, 3, 4, 5]
    assert [r.steps for r in scheduler.reports(0)] == [1, 2]
