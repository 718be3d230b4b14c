"""One member's life in its host, without Ray: what goes wrong in a candidate stays in that member's reports."""

from __future__ import annotations

import math
import os
import pickle
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest

from raytune_rl.mdp.score import order
from raytune_rl.records import KEEP, Decision, Report, Source
from raytune_rl.tune.hosts.slot import COPY_DROPPED, Slot, SlotSettings, Trained
from raytune_rl.tune.hosts.state_files import Snapshot
from tests.population.models import START, TASK
from tests.tune.hosts.scripted import Counting, CountingMember, best_of, member

Trick = Callable[[CountingMember, int], None]


def settings(trick: Trick | None = None, **changes: Any) -> SlotSettings:
    base = SlotSettings(candidate=Counting(trick=trick), segment_length=2, metric="score", mode="max", seed=0)
    return replace(base, **changes)


def decide(index: int, segment: int, lr: float, source: Source = KEEP, stop: bool = False) -> Decision:
    return Decision(
        member=index, segment=segment, hyperparameters={"lr": lr}, positions=(0.5,), source=source, stop=stop
    )


def slot(index: int = 0, lr: float = 1.0, shared: SlotSettings | None = None) -> Slot:
    made = Slot(shared or settings(), decide(index, 0, lr))
    made.start()
    return made


def train(one: Slot) -> Report:
    return one.run_segment(nullcontext())


def test_snapshots_are_kept_every_so_many_segments_and_survive_a_restart() -> None:
    shared = settings(snapshot_every=2)
    one = slot(4, shared=shared)
    for _ in range(5):
        train(one)
    saved = pickle.loads(pickle.dumps(one.to_save()))
    assert [(kept.member, kept.segment) for kept in saved["snapshots"]] == [(4, 1), (4, 3)]
    other = Slot(shared, decide(4, 0, 1.0))
    other.restore(saved)
    train(other)
    assert [kept.segment for kept in other.to_save()["snapshots"]] == [1, 3, 5]
    del saved["snapshots"]  # written before there were any
    other.restore(saved)
    assert other.to_save()["snapshots"] == []


class OnItsWay:
    """A transfer that arrives when told to."""

    def __init__(self, snapshot: Snapshot | Exception) -> None:
        self.snapshot, self.there, self.waited = snapshot, False, 0.0

    def ready(self, timeout: float = 0.0) -> bool:
        self.waited += timeout
        return self.there

    def get(self) -> Snapshot:
        if isinstance(self.snapshot, Exception):
            raise self.snapshot
        return self.snapshot


def test_a_report_says_what_happened() -> None:
    one = slot(3, lr=0.5)
    train(one)
    one.follow(decide(3, 1, 2.0))
    report = train(one)
    assert (report.member, report.segment, report.steps, report.decision) == (3, 1, 4, 1)
    assert report.metrics["score"] == 5.0
    assert report.hyperparameters == {"lr": 2.0}
    assert report.status == "ok" and report.copied_from is None and report.error is None
    assert report.signals["train_seconds"] == report.seconds >= 0.0


def test_effective_values_are_those_that_the_candidate_reports() -> None:
    class Stubborn(Counting):
        def build(self, context: Any, hyperparameters: Any) -> Any:
            made = super().build(context, hyperparameters)
            made.apply = lambda values: {"lr": 0.25}
            return made

    assert train(slot(shared=settings(candidate=Stubborn()))).hyperparameters == {"lr": 0.25}


def test_an_exception_is_reported_with_the_users_frames_only() -> None:
    trouble = [1]  # once, in the second segment

    def fails(counting: CountingMember, call: int) -> None:
        if call in trouble:
            trouble.clear()
            raise ZeroDivisionError("by hand")

    one = slot(shared=settings(fails))
    assert train(one).status == "ok"
    report = train(one)
    assert report.status == "failed" and report.segment == 1
    assert report.error is not None
    assert "ZeroDivisionError: by hand" in report.error and "in fails" in report.error
    assert "raytune_rl/tune/hosts/slot.py" not in report.error
    # It goes on from its own best, as a new instance.
    one.follow(decide(0, 2, 1.0, best_of(0)))
    report = train(one)
    assert report.status == "ok" and report.metrics["score"] == 4.0
    assert (report.copied_from, report.copied_segment) == (0, 0)


def test_a_member_that_exits_is_a_failure_too() -> None:
    def exits(counting: CountingMember, call: int) -> None:
        raise SystemExit(1)

    assert train(slot(shared=settings(exits))).status == "failed"


def test_without_a_best_it_begins_again() -> None:
    def fails_first(counting: CountingMember, call: int) -> None:
        if not built[1:]:
            raise RuntimeError

    built: list[int] = []

    class Counted(Counting):
        def build(self, context: Any, hyperparameters: Any) -> Any:
            built.append(context.seed)
            return super().build(context, hyperparameters)

    one = slot(shared=settings(candidate=Counted(trick=fails_first)))
    assert train(one).status == "failed"
    one.follow(decide(0, 1, 3.0, best_of(0)))
    report = train(one)
    assert report.status == "ok" and report.metrics["score"] == 6.0 and report.decision == 1
    assert report.copied_from is None
    assert len(set(built)) == 2  # with another seed


def test_a_candidate_that_cannot_be_built_is_tried_again() -> None:
    class Flaky(Counting):
        def build(self, context: Any, hyperparameters: Any) -> Any:
            if hyperparameters["lr"] > 5.0:
                raise ValueError("lr too large for me")
            return super().build(context, hyperparameters)

    one = slot(lr=9.0, shared=settings(candidate=Flaky()))
    report = train(one)
    assert report.status == "failed" and "too large for me" in (report.error or "")
    one.follow(decide(0, 1, 8.0))
    assert train(one).status == "failed"
    one.follow(decide(0, 2, 1.0))
    assert train(one).metrics["score"] == 2.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_is_divergence_and_no_best(value: float) -> None:
    trouble = [1]

    def diverges(counting: CountingMember, call: int) -> None:
        if call in trouble:
            trouble.clear()
            counting.score = value

    one = slot(shared=settings(diverges))
    train(one)
    assert train(one).status == "diverged"
    one.follow(decide(0, 2, 1.0, best_of(0)))
    assert train(one).metrics["score"] == 4.0


def test_a_metric_that_is_not_there() -> None:
    one = slot(shared=settings(metric="accuracy"))
    report = train(one)
    assert one.missing_metrics == ("noise", "score")
    assert report.status == "failed" and "'accuracy'" in (report.error or "")


def test_done_is_passed_on() -> None:
    one = slot(shared=settings(candidate=Counting(lasts=4)))
    assert [train(one).done, train(one).done] == [False, True]


@pytest.mark.parametrize(("mode", "best"), [("max", (1, 6.0)), ("min", (2, -4.0))])
def test_the_best_is_kept(mode: Any, best: tuple[int, float]) -> None:
    one = slot(lr=1.0, shared=settings(mode=mode))
    for segment, lr in enumerate((2.0, -5.0, 3.0)):  # scores 2, 6, -4, 2
        train(one)
        one.follow(decide(0, segment + 1, lr))
    train(one)
    snapshot = one.snapshot("checkpoint")
    assert (snapshot.segment, snapshot.state["score"]) == best


def test_steps_are_those_that_it_has_made_whatever_it_goes_back_to() -> None:
    one = slot(lr=1.0)
    reports = [train(one)]
    for segment, source in enumerate((KEEP, Source(kind="checkpoint", member=0), KEEP), start=1):
        one.follow(decide(0, segment, -1.0, source))  # what came after the first segment is no best to go back to
        reports.append(train(one))
    assert [report.steps for report in reports] == [2, 4, 6, 8]


def test_a_copy_brings_weights_and_values() -> None:
    donor, receiver = slot(0, lr=10.0), slot(1, lr=1.0)
    train(donor), train(receiver)
    receiver.follow(decide(1, 1, 0.5, member(0)), donor.snapshot())
    report = train(receiver)
    assert report.metrics["score"] == 21.0 and report.hyperparameters == {"lr": 0.5}
    assert (report.copied_from, report.copied_segment, report.steps) == (0, 0, 4)
    receiver.follow(decide(1, 2, 0.5))
    assert train(receiver).copied_from is None


def test_while_a_copy_is_under_way_it_goes_on_as_it_was() -> None:
    donor, receiver = slot(0, lr=10.0), slot(1, lr=1.0)
    train(donor), train(receiver)
    transfer = OnItsWay(donor.snapshot())
    receiver.follow(decide(1, 1, 0.5, member(0)), transfer)
    report = train(receiver)
    assert (report.decision, report.metrics["score"], report.copied_from) == (0, 4.0, None)
    receiver.follow(decide(1, 2, 7.0))  # does not drive the copy away
    transfer.there = True
    report = train(receiver)
    assert (report.decision, report.metrics["score"], report.copied_from) == (1, 21.0, 0)
    assert report.hyperparameters == {"lr": 0.5}


def test_another_copy_takes_the_place_of_one_under_way() -> None:
    donor, receiver = slot(0, lr=10.0), slot(1, lr=1.0)
    train(donor), train(receiver)
    late = OnItsWay(donor.snapshot())
    receiver.follow(decide(1, 1, 0.5, member(0)), late)
    receiver.follow(decide(1, 1, 1.0, best_of(1)), receiver.snapshot("checkpoint"))
    late.there = True
    assert train(receiver).metrics["score"] == 4.0


def test_a_donor_that_died_is_noted_and_nothing_changes() -> None:
    receiver = slot(1, lr=1.0)
    train(receiver)
    transfer = OnItsWay(RuntimeError("dead"))
    transfer.there = True
    receiver.follow(decide(1, 1, 0.5, member(0)), transfer)
    report = train(receiver)
    assert (report.status, report.decision, report.metrics["score"], report.copied_from) == ("ok", 0, 4.0, None)
    assert report.signals[COPY_DROPPED] == 1.0
    assert COPY_DROPPED not in train(receiver).signals
    receiver.follow(decide(1, 3, 0.5, member(0)), None)  # not even a transfer
    assert train(receiver).signals[COPY_DROPPED] == 1.0


def test_synchronous_members_wait_for_a_copy_but_not_for_ever() -> None:
    receiver = slot(1, shared=settings(copy_deadline=3.0))
    train(receiver)
    transfer = OnItsWay(RuntimeError())
    receiver.follow(decide(1, 1, 0.5, member(0)), transfer)
    assert train(receiver).signals[COPY_DROPPED] == 1.0
    assert transfer.waited == 3.0


def test_a_hung_segment_is_reported_instead_of_trained() -> None:
    one = slot()
    train(one)
    one.mark(0, "hung")
    report = train(one)
    assert (report.status, report.segment, report.metrics) == ("hung", 1, {})
    one.follow(decide(0, 2, 1.0, best_of(0)))
    assert train(one).metrics["score"] == 4.0


def test_stopped_members_keep_their_weights() -> None:
    one = slot()
    train(one)
    one.follow(decide(0, 1, 1.0, stop=True))
    assert one.stopped
    again = Slot(settings(), decide(0, 0, 1.0))
    again.restore(pickle.loads(pickle.dumps(one.to_save())))
    assert again.stopped
    assert again.to_save()["state"]["score"] == again.snapshot("checkpoint").state["score"] == 2.0


def test_restored_it_goes_on_exactly_there() -> None:
    one = slot()
    train(one)
    one.follow(decide(0, 1, 5.0))
    saved = pickle.loads(pickle.dumps(one.to_save()))
    again = Slot(settings(), decide(0, 0, 1.0))
    again.restore(saved)
    expected, report = train(one), train(again)
    assert replace(report, seconds=0.0, signals={}) == replace(expected, seconds=0.0, signals={})
    assert report.metrics["score"] == 12.0
    assert again.snapshot("checkpoint").segment == 1


def test_what_was_saved_does_not_change_later() -> None:
    one = slot()
    train(one)
    saved = one.to_save()
    train(one)
    assert saved["memory"].segment == 1 and saved["state"]["score"] == 2.0


def test_an_error_while_a_decision_is_carried_out_fails_the_next_segment() -> None:
    class Picky(Counting):
        def build(self, context: Any, hyperparameters: Any) -> Any:
            made = super().build(context, hyperparameters)
            apply = made.apply

            def picky(values: Any) -> Any:
                if values["lr"] < 0:
                    raise ValueError("negative")
                return apply(values)

            made.apply = picky
            return made

    one = slot(shared=settings(candidate=Picky()))
    train(one)
    one.follow(decide(0, 1, -1.0))
    report = train(one)
    assert report.status == "failed" and "negative" in (report.error or "")
    one.follow(decide(0, 2, 1.0, best_of(0)))
    assert train(one).status == "ok"


def test_of_equal_segments_the_one_with_the_lower_loss_is_kept() -> None:
    shared = settings(metric="validation_accuracy", candidate=TASK, segment_length=5)
    one = Slot(shared, replace(decide(0, 0, 0.01), hyperparameters=START))
    one.start()
    reports = [train(one) for _ in range(8)]
    best = min(reports, key=lambda report: order(report.metrics, metric="validation_accuracy", mode="max"))
    ties = [r for r in reports if r.metrics["validation_accuracy"] == best.metrics["validation_accuracy"]]
    assert len(ties) > 1 and best is not ties[0]
    kept = one.to_save()["memory"].best
    assert kept.segment == best.segment and kept.state["metrics"] == best.metrics


def test_what_an_earlier_version_has_saved_is_revived() -> None:
    one = slot()
    train(one)
    saved = one.to_save()
    del saved["memory"].best_loss
    other = Slot(settings(), decide(0, 0, 1.0))
    other.restore(saved)
    assert train(other).segment == 1


def test_what_a_member_raised_in_a_pack_is_its_failure() -> None:
    one = slot()
    report = one.report_trained(Trained(result=ValueError("my metric is picky"), seconds=0.5), nullcontext())
    assert report.status == "failed" and report.error is not None and "my metric is picky" in report.error
    assert train(one).status == "failed", "until it is told how to go on"


def test_a_traceback_shows_the_users_frames_of_what_caused_it_and_none_of_ours() -> None:
    def picky(outputs: Any, targets: Any) -> float:
        raise ValueError("my metric is picky")

    one = Slot(
        settings(metric="validation_loss", candidate=replace(TASK, metrics={"picky": picky})),
        replace(decide(0, 0, 0.01), hyperparameters=START),
    )
    one.start()
    error = train(one).error
    assert error is not None and 'raise ValueError("my metric is picky")' in error
    assert "raytune_rl" + os.sep not in error and "The metric 'picky' cannot take outputs" in error
