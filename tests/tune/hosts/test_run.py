"""Populations as real Tune trials on a small cluster, and everything that is known to go wrong with them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.tune.examples.pbt_example import PBTBenchmarkExample

from raytune_rl.population.candidate import Candidate
from raytune_rl.records import KEEP, Report
from raytune_rl.tune.hosts.run import PopulationOutcome, PopulationPlan, PopulationRun
from raytune_rl.tune.hosts.slot import COPY_DROPPED
from raytune_rl.tune.hosts.state_files import read_snapshot
from raytune_rl.tune.trainable import TrainableTask
from tests.tune.hosts.scripted import (
    Answer,
    Counting,
    CountingMember,
    Recorder,
    Script,
    ScriptedController,
    best_of,
    member,
    once,
)

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(120)]


@dataclass
class Run:
    """A plan for a few counting members, its controller and its sink."""

    directory: Path
    candidate: Candidate
    script: Script
    segments: int
    groups: Sequence[Sequence[int]] = ((0, 1), (2, 3))
    checkpoint_every: float = 0.0

    def start(self, **settings: Any) -> tuple[PopulationRun, Recorder, ScriptedController]:
        controller, sink = ScriptedController(segments=self.segments, script=self.script), Recorder()
        plan = PopulationPlan(
            candidate=self.candidate,
            start={m: controller.begin(m) for group in self.groups for m in group},
            groups=self.groups,
            resources={"CPU": 2 / len(self.groups)},
            directory=str(self.directory),
            **{
                "segment_length": 1,
                "metric": "score",
                "mode": "max",
                "seed": 7,
                "checkpoint_every": self.checkpoint_every,
                **settings,
            },
        )
        return PopulationRun(plan, controller, sink), sink, controller

    def fit(self, **settings: Any) -> tuple[PopulationOutcome, Recorder, ScriptedController]:
        run, sink, controller = self.start(**settings)
        outcome = run.fit()
        return outcome, sink, controller


def complete(sink: Recorder, members: Sequence[int], segments: int) -> bool:
    """Every member has every segment."""
    return sorted(sink.rows) == [(m, s) for m in members for s in range(segments)]


# -- all is well -------------------------------------------------------------------------------------------------------


def steer(report: Report) -> Answer:
    at = (report.member, report.segment)
    if at == (0, 1):
        return Answer(lr=100.0)  # in place
    if at == (1, 1):
        return Answer(source=member(0), lr=2.0)  # within the trial
    if at == (3, 4):
        return Answer(source=best_of(1), lr=3.0)  # the best of a member of the other trial
    return Answer(stop=at == (2, 5))


def wait_for_the_donor(counting: CountingMember, call: int, *, flag: str) -> None:
    """Member 3 is not at the segment of its copy before member 1 of the other trial has a best checkpoint to give."""
    if counting.context.member == 1 and call == 1:
        Path(flag).touch()
    deadline = time.monotonic() + 60.0
    while counting.context.member == 3 and call == 4 and not Path(flag).exists() and time.monotonic() < deadline:
        time.sleep(0.01)


def test_changes_copies_and_stops_arrive(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    trick = partial(wait_for_the_donor, flag=str(tmp_path_factory.mktemp("flags") / "donor"))
    run, sink, _ = Run(tmp_path, Counting(seconds=0.02, trick=trick), steer, segments=12).start()
    outcome = run.fit()
    assert outcome.interrupted is None and outcome.restarts == 0 and outcome.dropped == ()
    zero, one, two, three = (sink.of(m) for m in range(4))
    assert [r.metrics["score"] for r in zero[:4]] == [1.0, 2.0, 102.0, 202.0]
    assert [r.decision for r in zero] == list(range(12))
    assert [r.metrics["score"] for r in one[:4]] == [2.0, 4.0, 4.0, 6.0]
    assert (one[2].copied_from, one[2].copied_segment, one[2].hyperparameters) == (0, 1, {"lr": 2.0})
    assert len(two) == 6
    (landed,) = [r for r in three if r.copied_from is not None]
    assert landed.copied_from == 1 and landed.segment >= 5 and landed.hyperparameters == {"lr": 3.0}
    donor = one[landed.copied_segment or 0]
    assert landed.metrics["score"] == donor.metrics["score"] + 3.0
    assert all(r.decision == 4 for r in three if 4 < r.segment < landed.segment)
    assert {r.trial_id for r in zero + one} == {"trial-0"} and zero[0].node
    assert min(outcome.decision_seconds) > 0.0 and np.quantile(outcome.decision_seconds, 0.99) < 1.0
    # The best model is there for the end of the run, and nothing else of Tune's is read or left in the way.
    best = read_snapshot(run.plan.state_uris[0], 0, best=True)
    assert best is not None and best.state["score"] == zero[-1].metrics["score"]
    assert sorted(os.listdir(tmp_path)) == ["state", "tune"]
    assert sorted(os.listdir(tmp_path / "state")) == ["trial-0", "trial-1"]
    assert max(len(os.listdir(tmp_path / "state" / t)) for t in ("trial-0", "trial-1")) == 2


def cross(report: Report) -> Answer:
    """Every third segment all members go round by one, across the trials."""
    return Answer(source=member((report.member + 1) % 4) if report.segment % 3 == 2 else KEEP, lr=report.segment + 1.0)


def timeless(report: Report) -> Report:
    """The report without what no clock measures the same twice."""
    signals = {name: value for name, value in report.signals.items() if name != "train_seconds"}
    return replace(report, seconds=0.0, signals=signals)


def test_synchronous_runs_repeat_bit_for_bit(tmp_path: Path) -> None:
    def reports(name: str) -> list[Report]:
        _, sink, controller = Run(tmp_path / name, Counting(), cross, segments=8).fit(synchronous=True)
        assert [call for call in controller.calls if call[0] == "learn"] == [("learn", True)] * 8
        assert complete(sink, range(4), 8)
        return [timeless(sink.rows[key]) for key in sorted(sink.rows)]

    first = reports("first")
    assert [(r.copied_from, r.copied_segment) for r in first if r.segment == 3] == [(1, 2), (2, 2), (3, 2), (0, 2)]
    assert not any(COPY_DROPPED in r.signals for r in first)
    assert reports("second") == first


def test_rays_own_trainable_unchanged(tmp_path: Path) -> None:
    task = TrainableTask(trainable=PBTBenchmarkExample, config={"some_other_factor": 1})

    def script(report: Report) -> Answer:
        return Answer(lr=0.002 + 0.001 * report.segment, source=member(3) if report.member == 0 else KEEP)

    run = Run(tmp_path, task, script, segments=6)
    controller = ScriptedController(segments=6, script=script, start_lr=lambda index: 0.001)
    sink = Recorder()
    plan = replace(run.start()[0].plan, metric="mean_accuracy", segment_length=2)
    plan = replace(plan, start={m: controller.begin(m) for m in range(4)}, synchronous=True)
    PopulationRun(plan, controller, sink).fit()
    assert complete(sink, range(4), 6)
    for report in sink.rows.values():
        asked = 0.001 if report.decision == 0 else 0.002 + 0.001 * (report.decision - 1)
        assert report.metrics["cur_lr"] == report.hyperparameters["lr"] == pytest.approx(asked)
    assert [r.copied_from for r in sink.of(0)[1:]] == [3] * 5
    assert [r.steps for r in sink.of(0)] == [2, 4, 6, 8, 10, 12]


# -- members that go wrong ---------------------------------------------------------------------------------------------


def misbehave(counting: CountingMember, call: int) -> None:
    index = counting.context.member
    if index == 0 and counting.lr == 1.0 and call == 2:
        raise RuntimeError("I can't")
    if index == 1 and counting.lr == 2.0 and call == 2:
        counting.score = float("nan")


def milder(report: Report) -> Answer:
    return Answer(lr=None if report.status == "ok" else 0.5)


def test_members_that_fail_or_diverge_restart_from_their_best(tmp_path: Path) -> None:
    outcome, sink, _ = Run(tmp_path, Counting(trick=misbehave), milder, segments=6).fit()
    assert complete(sink, range(4), 6) and outcome.restarts == 0
    assert [r.status for r in sink.of(0)] == ["ok", "ok", "failed", "ok", "ok", "ok"]
    assert "I can't" in (sink.of(0)[2].error or "")
    assert [r.status for r in sink.of(1)] == ["ok", "ok", "diverged", "ok", "ok", "ok"]
    assert [r.metrics["score"] for r in sink.of(0)[3:]] == [2.5, 3.0, 3.5]
    assert [r.metrics["score"] for r in sink.of(1)[3:]] == [4.5, 5.0, 5.5]
    assert all(r.status == "ok" for m in (2, 3) for r in sink.of(m))


def test_a_metric_that_nobody_reports_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"does not report the metric 'accuracy'; it reports noise, score\."):
        Run(tmp_path, Counting(), lambda report: Answer(), segments=50).fit(metric="accuracy")


@dataclass(frozen=True, kw_only=True)
class Hangs(Counting):
    """Member 0 hangs in its fourth segment, once."""

    flag: str = ""

    def build(self, context: Any, hyperparameters: Any) -> Any:
        def hang(counting: CountingMember, call: int) -> None:
            if context.member == 0 and call == 3 and once(self.flag):
                time.sleep(1000)

        return CountingMember(replace(self, trick=hang), context, hyperparameters)


def test_a_member_that_hangs_costs_one_segment(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", Hangs(flag=str(tmp_path / "hung")), lambda report: Answer(), segments=7)
    outcome, sink, _ = run.fit(segment_timeout=1.0)
    assert outcome.restarts == 1
    assert complete(sink, range(4), 7)
    assert [r.status for r in sink.of(0)] == ["ok", "ok", "ok", "hung", "ok", "ok", "ok"]
    assert all(r.status == "ok" for m in (1, 2, 3) for r in sink.of(m))
    assert sink.of(1)[-1].metrics["score"] == 14.0


# -- processes that die ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Dies(Counting):
    """Member 0 kills its process in its sixth segment: once (with a flag), or always."""

    flag: str = ""

    def build(self, context: Any, hyperparameters: Any) -> Any:
        def die(counting: CountingMember, call: int) -> None:
            if context.member == 0 and call == 5 and (not self.flag or once(self.flag)):
                os.kill(os.getpid(), signal.SIGKILL)

        return CountingMember(replace(self, trick=die), context, hyperparameters)


@pytest.mark.parametrize("synchronous", [False, True])
def test_a_killed_actor_comes_back_from_its_state(tmp_path: Path, synchronous: bool) -> None:
    run = Run(tmp_path / "run", Dies(flag=str(tmp_path / "dead")), lambda report: Answer(), segments=9)
    outcome, sink, controller = run.fit(synchronous=synchronous)
    assert outcome.restarts == 1 and outcome.dropped == ()
    assert complete(sink, range(4), 9)
    for m in (1, 2, 3):  # what was trained twice gave the same
        assert [r.metrics["score"] for r in sink.of(m)] == [(m + 1.0) * (s + 1) for s in range(9)]
    guilty = sink.of(0)  # loses the segment in which it killed the process, and only that
    assert [r.status for r in guilty] == ["ok"] * 5 + ["failed"] + ["ok"] * 3
    assert "killed" in (guilty[5].error or "")
    assert [r.metrics["score"] for r in guilty if r.status == "ok"] == [float(s + 1) for s in range(8)]
    steps = [key for call in controller.calls if call[0] == "step" for key in call[1]]
    assert len(steps) == 4 * 9 if synchronous else len(steps) >= 4 * 9


def test_a_killed_actor_without_a_state_begins_again(tmp_path: Path) -> None:
    run = Run(
        tmp_path / "run",
        Dies(flag=str(tmp_path / "dead")),
        lambda report: Answer(),
        segments=9,
        checkpoint_every=1e6,
    )
    outcome, sink, controller = run.fit()
    assert outcome.restarts == 1 and complete(sink, range(4), 9)
    steps = [key for call in controller.calls if call[0] == "step" for key in call[1]]
    assert steps.count((1, 0)) == 2 and steps.count((2, 0)) == 1


def test_a_trial_that_dies_again_and_again_is_given_up_and_holds_nobody(tmp_path: Path) -> None:
    run = Run(tmp_path, Dies(), lambda report: Answer(source=member(0) if report.member == 2 else KEEP), segments=9)
    outcome, sink, controller = run.fit(synchronous=True, max_failures=1)
    assert outcome.dropped == (0, 1) and ("drop", (0, 1)) in controller.calls
    assert list(outcome.errors) == [0] and "died" in outcome.errors[0]
    assert [r.status for r in sink.of(0)] == ["ok"] * 5 + ["failed"]  # it is blamed once, and dies again
    assert len(sink.of(2)) == len(sink.of(3)) == 9
    copied = [r.copied_from for r in sink.of(2)]
    # What it gave right before it died may have died with it; then the receiver keeps its own.
    assert copied[1:5] == [0] * 4 and copied[5] in (0, None)


@dataclass(frozen=True, kw_only=True)
class DiesExporting(Counting):
    """Member 0 takes its process down when somebody else wants its weights."""

    flag: str = ""

    def build(self, context: Any, hyperparameters: Any) -> Any:
        made = super().build(context, hyperparameters)
        if context.member == 0:
            made.apply({"lr": 0.0})
            get_state = made.get_state

            def deadly() -> Any:
                if made.steps >= 3 and once(self.flag):
                    os.kill(os.getpid(), signal.SIGKILL)
                return get_state()

            made.get_state = deadly
        return made


def test_a_donor_that_dies_costs_the_receiver_nothing(tmp_path: Path) -> None:
    def script(report: Report) -> Answer:
        at = (report.member, report.segment)
        return Answer(lr=-1.0 if report.member == 0 else None, source=member(0) if at == (2, 3) else KEEP)

    candidate = DiesExporting(flag=str(tmp_path / "dead"))
    run = Run(tmp_path / "run", candidate, script, segments=8, checkpoint_every=1e6)
    outcome, sink, _ = run.fit(synchronous=True)
    assert outcome.restarts == 1 and complete(sink, range(4), 8)
    assert all(r.status == "ok" for r in sink.rows.values())
    receiver = sink.of(2)
    assert receiver[4].signals[COPY_DROPPED] == 1.0 and receiver[4].decision == 3
    assert [r.metrics["score"] for r in receiver] == [3.0 * (s + 1) for s in range(8)]


# -- drivers that go and come again ------------------------------------------------------------------------------------


def test_a_new_driver_goes_on_where_the_old_one_was_stopped(tmp_path: Path) -> None:
    plan = Run(tmp_path, Counting(seconds=0.02), lambda report: Answer(), segments=40, checkpoint_every=1e6)
    first, sink, _ = plan.start()
    sink.after = lambda recorder: first.request_stop("enough") if len(recorder.rows) > 40 else None
    outcome = first.fit()
    assert outcome.interrupted == "enough"
    assert 40 < len(sink.rows) < 160
    ends = {m: sink.of(m)[-1].segment for m in range(4)}
    assert sink.durable == ends
    _, again, _ = plan.fit()
    assert {m: again.of(m)[0].segment for m in range(4)} == {m: end + 1 for m, end in ends.items()}
    together = Recorder(rows={**sink.rows, **again.rows})
    assert complete(together, range(4), 40)
    for m in range(4):
        reports = together.of(m)
        assert [r.metrics["score"] for r in reports] == [(m + 1.0) * (s + 1) for s in range(40)]
        assert len({r.metrics["noise"] for r in reports}) == 40  # the random stream went on as well


def test_a_truncated_state_file_costs_one_generation(tmp_path: Path) -> None:
    plan = Run(tmp_path, Counting(), lambda report: Answer(), segments=1000)
    first, sink, _ = plan.start(synchronous=True)
    sink.after = lambda recorder: first.request_stop("enough") if len(recorder.rows) >= 20 else None
    first.fit()
    newest = sorted((tmp_path / "state" / "trial-1").glob("state-*.bin"))[-1]
    os.truncate(newest, newest.stat().st_size // 2)
    last = sink.of(0)[-1].segment
    second, again, _ = replace(plan, segments=last + 3).start(synchronous=True)
    second.fit()
    assert again.of(0)[0].segment == last + 1 and again.of(2)[0].segment == last
    assert all(r.metrics["score"] == (r.member + 1.0) * (r.segment + 1) for r in again.rows.values())


# -- an unknown Ray ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("synchronous", [False, True])
def test_without_private_calls_it_is_slow_and_right(tmp_path: Path, synchronous: bool) -> None:
    def script(report: Report) -> Answer:
        source = member(2) if (report.member, report.segment) == (0, 1) else KEEP
        return Answer(lr=10.0 if report.member == 1 else None, source=source)

    _, sink, _ = Run(tmp_path, Counting(), script, segments=3).fit(synchronous=synchronous, in_place=False)
    assert complete(sink, range(4), 3)
    assert [r.metrics["score"] for r in sink.of(1)] == [2.0, 12.0, 22.0]
    assert sink.of(0)[2].copied_from == 2


# -- what must fit -----------------------------------------------------------------------------------------------------


def test_groups_must_hold_each_member_once(tmp_path: Path) -> None:
    run, _, _ = Run(tmp_path, Counting(), lambda report: Answer(), segments=1).start()
    with pytest.raises(ValueError, match="belongs there once"):
        replace(run.plan, groups=[(0, 1), (1, 2, 3)])


def test_big_states_cross_trials_intact(tmp_path: Path) -> None:
    run = Run(tmp_path, Counting(ballast=1 << 20), cross, segments=4)
    _, sink, _ = run.fit(synchronous=True)
    state = run.start()[0].plan.state_uris[0]
    snapshot = read_snapshot(state, 0)
    assert snapshot is not None
    np.testing.assert_array_equal(snapshot.state["weights"], np.full(1 << 20, 1, dtype=np.uint8))
    assert complete(sink, range(4), 4)
