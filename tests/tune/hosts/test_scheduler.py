"""The scheduler with Tune's side played by hand: what it tells whom, in which order, and who may hold the barrier."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.experiment import Trial

from raytune_rl.records import KEEP, Report
from raytune_rl.tune import adapter
from raytune_rl.tune.hosts.driver_state import DriverState
from raytune_rl.tune.hosts.scheduler import PopulationScheduler
from raytune_rl.tune.hosts.transfers import FileTransfer, Orders
from tests.tune.hosts.scripted import Answer, Recorder, Script, ScriptedController, member


class FakeActor:
    """Notes the calls made to it; their references are their numbers."""

    def __init__(self, log: list[Any], index: int) -> None:
        self._log, self._index = log, index

    def __getattr__(self, method: str) -> Any:
        def remote(*args: Any) -> str:
            self._log.append((self._index, method, *args))
            return f"ref-{len(self._log)}"

        return SimpleNamespace(remote=remote)


class FakeTrial:
    def __init__(self, log: list[Any], index: int) -> None:
        self.trial_id, self.config, self.status = f"t{index}", {"trial": index}, Trial.RUNNING
        self.temporary_state = SimpleNamespace(ray_actor=FakeActor(log, index))
        self.recovers, self.error_file = True, None

    def should_recover(self) -> bool:
        return self.recovers

    def set_config(self, config: dict[str, Any]) -> None:
        self.config = config


class World:
    """Trials of two members each, and what Tune would do with the scheduler's answers."""

    def __init__(self, trials: int = 2, *, script: Script | None = None, segments: int = 100, **settings: Any) -> None:
        self.log: list[Any] = []
        self.now = 0.0
        self.controller = ScriptedController(segments=segments, script=script or (lambda report: Answer()))
        self.sink = Recorder()
        self.driver = DriverState(controller=self.controller, sink=self.sink, clock=lambda: self.now)
        self.scheduler = PopulationScheduler(
            driver=self.driver,
            members=[(2 * i, 2 * i + 1) for i in range(trials)],
            state_uris=[f"/state/{i}" for i in range(trials)],
            metric="score",
            **settings,
        )
        self.trials = [FakeTrial(self.log, i) for i in range(trials)]
        self._trial_to_actor = {trial: f"actor-{i}" for i, trial in enumerate(self.trials)}
        self.finished = {actor: {f"{actor} {n}" for n in range(5)} for actor in self._trial_to_actor.values()}
        self._actor_manager = SimpleNamespace(
            _tracked_actors_to_task_futures=self.finished,
            _actor_task_events=SimpleNamespace(get_futures=lambda: {"actor-0 4", "actor-1 4"}),
        )
        for trial in self.trials:
            self.scheduler.on_trial_add(self, trial)
        for index in range(2 * trials):
            self.controller.begin(index)

    def result(self, trial: int, segment: int, **changes: Any) -> str:
        reports = [
            Report(member=m, segment=segment, steps=1, metrics={"score": 1.0}, **changes)
            for m in (2 * trial, 2 * trial + 1)
        ]
        return self.scheduler.on_trial_result(self, self.trials[trial], {"reports": reports})

    def sent(self, method: str) -> list[Any]:
        return [entry for entry in self.log if entry[1] == method]

    # What Tune's controller has.

    def get_trials(self) -> list[FakeTrial]:
        return self.trials

    def stop_trial(self, trial: FakeTrial) -> None:
        self.log.append((trial.config["trial"], "stopped"))
        self.scheduler.on_trial_complete(self, trial, {})

    def _schedule_trial_train(self, trial: FakeTrial) -> None:
        self.log.append((trial.config["trial"], "train"))

    def _schedule_trial_task(
        self, trial: FakeTrial, method: str, args: tuple[Any, ...], *, on_result: Any, on_error: Any
    ) -> None:
        assert (on_result, on_error) == (self._on_training_result, self._trial_task_failure)  # as of ``train`` itself
        self.log.append((trial.config["trial"], method, *args))

    def _on_training_result(self) -> None: ...

    def _trial_task_failure(self) -> None: ...


def test_a_result_becomes_orders_and_the_next_train_in_one_call() -> None:
    world = World()
    result = {"reports": [Report(member=m, segment=0, steps=1, metrics={"score": 1.0}) for m in (0, 1)]}
    assert world.scheduler.on_trial_result(world, world.trials[0], result) == "NOOP"
    ((index, method, orders),) = world.log
    assert (index, method) == (0, "follow_and_train")
    assert isinstance(orders, Orders) and not orders.save
    assert [(d.member, d.segment, dict(d.hyperparameters)) for d in orders.decisions] == [
        (0, 1, {"lr": 1.0}),
        (1, 1, {"lr": 2.0}),
    ]
    assert result["reports"] == []  # Tune keeps the result
    assert world.sink.rows.keys() == {(0, 0), (1, 0)}
    assert world.controller.calls == [("step", ((0, 0), (1, 0))), ("learn", False)]
    assert len(world.driver.latencies) == 1


def test_the_results_of_finished_tasks_are_let_go() -> None:
    world = World()
    world.result(0, 0)
    assert world.finished["actor-0"] == {"actor-0 4"} and len(world.finished["actor-1"]) == 5


def test_a_copy_within_the_trial_needs_nobody_else() -> None:
    world = World(script=lambda report: Answer(source=member(1) if report.member == 0 else KEEP))
    world.result(0, 0)
    assert world.sent("export_state") == []
    assert world.sent("follow_and_train")[0][2].copies == {}


def test_a_copy_from_another_trial_is_exported_once_and_first() -> None:
    world = World(script=lambda report: Answer(source=member(2)))
    world.result(0, 0)
    assert [entry[:2] for entry in world.log] == [(1, "export_state"), (0, "follow_and_train")]
    assert world.log[0][2:] == (2, "member")
    assert world.log[1][2].copies == {0: "ref-1", 1: "ref-1"}


def test_a_trial_without_an_actor_gives_what_it_has_saved() -> None:
    world = World(script=lambda report: Answer(source=member(2)))
    world.result(1, 7)
    world.trials[1].temporary_state.ray_actor = None
    world.result(0, 0)
    copy = world.sent("follow_and_train")[-1][2].copies[0]
    assert copy == FileTransfer(state_uri="/state/1", member=2, kind="member", segment=7)


def test_a_trial_trains_on_while_tables_are_flushed_and_saves_after_that() -> None:
    world = World(checkpoint_every=10.0)
    world.sink.flush = lambda: world.log.append(("sink", "flush")) is None  # type: ignore[method-assign]
    staged = []
    for segment, now in enumerate((0.0, 9.0, 10.5, 15.0, 21.0)):
        world.now = now
        before = len(world.log)
        assert world.result(0, segment) == "NOOP"
        new = world.log[before:]
        staged.append(new[0][2].stage)
        expected = ["follow_and_train", *(["flush", "commit"] if staged[-1] else [])]
        assert [entry[1] for entry in new] == expected
    assert staged == [False, False, True, False, True]
    assert [call for call in world.controller.calls if call[0] == "durable"] == [
        ("durable", m, s) for s in (2, 4) for m in (0, 1)
    ]


def test_nothing_is_saved_that_the_tables_lack() -> None:
    world = World(checkpoint_every=0.0)
    world.sink.flush = lambda: False  # type: ignore[method-assign]  # the disk is full
    assert world.result(0, 0) == "NOOP"
    assert world.sent("commit") == []
    assert not any(call[0] == "durable" for call in world.controller.calls)


def test_a_trial_ends_with_its_last_member_and_saves() -> None:
    world = World(script=lambda report: Answer(stop=report.segment >= report.member))
    assert world.result(0, 0) == "NOOP"
    assert world.result(0, 1) == "STOP"
    assert world.sent("apply")[-1][2].save
    assert world.sink.durable == {0: 1, 1: 1}


def test_an_interrupted_run_saves_and_ends_with_real_decisions() -> None:
    world = World()
    world.driver.interrupted = "Ctrl-C"
    assert world.result(0, 3) == "STOP"
    orders = world.sent("apply")[-1][2]
    assert orders.save and not any(decision.stop for decision in orders.decisions)


def test_a_missing_metric_ends_everything_with_one_sentence() -> None:
    world = World()
    answer = world.scheduler.on_trial_result(world, world.trials[0], {"reports": [], "missing_metric": ["loss", "x"]})
    assert answer == "STOP"
    assert str(world.driver.fatal) == "The candidate does not report the metric 'score'; it reports loss, x."
    assert world.result(1, 0) == "STOP"
    assert world.controller.calls == []


def test_a_trial_that_restarts_is_lost_and_comes_again() -> None:
    world = World()
    world.scheduler.on_trial_error(world, world.trials[0])
    world.scheduler.on_trial_add(world, world.trials[0])
    world.scheduler.on_trial_add(world, world.trials[0])
    assert world.controller.calls == []
    assert world.driver.restarts == 1
    assert world.result(0, 0) == "NOOP"


def test_a_trial_that_fails_too_often_is_dropped(tmp_path: Path) -> None:
    world = World(script=lambda report: Answer(stop=report.member == 0))
    world.result(0, 0)
    world.trials[0].recovers = False
    world.trials[0].error_file = str(tmp_path / "error.txt")
    (tmp_path / "error.txt").write_text("Failure # 1\nold\nFailure # 2 (now)\nTraceback ...\nValueError: broken\n\n")
    world.scheduler.on_trial_error(world, world.trials[0])
    assert world.controller.calls[-1] == ("drop", (1,))
    assert world.driver.dropped == [1] and world.driver.errors == {0: "ValueError: broken"}
    assert world.result(1, 0) == "NOOP"


def test_trials_that_never_start_are_given_up_with_the_reason(tmp_path: Path) -> None:
    world = World()
    error = tmp_path / "error.txt"
    error.write_text(
        "Failure # 1 (now)\nThe actor died because of an error raised in its creation task, ray::Host.__init__()\n"
        "  File host.py\nModuleNotFoundError: No module named 'mine'\n"
    )
    for trial in (0, 1, 0):
        assert world.driver.fatal is None
        world.trials[trial].error_file = str(error)
        world.scheduler.on_trial_error(world, world.trials[trial])
    assert str(world.driver.fatal) == "The trials cannot start: ModuleNotFoundError: No module named 'mine'."


def test_a_trial_that_fails_to_start_again_later_ends_nobody_else(tmp_path: Path) -> None:
    world = World()
    world.result(1, 0)
    world.trials[0].error_file = str(tmp_path / "error.txt")
    (tmp_path / "error.txt").write_text(
        "Failure # 1\nThe actor died because of an error raised in its creation task\nOSError: disk\n"
    )
    for _ in range(4):
        world.scheduler.on_trial_error(world, world.trials[0])
    assert world.driver.fatal is None and world.driver.restarts == 4


# -- the barrier -------------------------------------------------------------------------------------------------------


def test_everybody_waits_then_all_decide_learn_and_go_on() -> None:
    world = World(3, synchronous=True, script=lambda report: Answer(source=member((report.member + 2) % 6)))
    assert world.result(2, 0) == "NOOP"
    assert world.result(0, 0) == "NOOP"
    assert world.log == [] and world.controller.calls == []
    assert world.result(1, 0) == "CONTINUE"
    assert world.controller.calls == [("step", tuple((m, 0) for m in range(6))), ("learn", True)]
    kinds = [entry[1] for entry in world.log]
    assert kinds == ["export_state"] * 6 + ["apply"] * 3 + ["train"] * 2  # Tune itself goes on with trial 1
    assert [entry[0] for entry in world.log[-2:]] == [0, 2]


def test_the_order_of_arrival_makes_no_difference() -> None:
    def orders_of(arrivals: tuple[int, ...]) -> Any:
        world = World(3, synchronous=True)
        for trial in arrivals:
            world.result(trial, 0)
        return sorted((e[0], e[2].decisions) for e in world.sent("apply")), world.controller.calls

    assert orders_of((0, 1, 2)) == orders_of((2, 0, 1))


def gone_for_good(world: World, trial: FakeTrial) -> None:
    trial.recovers = False
    world.scheduler.on_trial_error(world, trial)


@pytest.mark.parametrize(
    "leave",
    [
        gone_for_good,
        lambda world, trial: world.scheduler.on_trial_complete(world, trial, {}),
        lambda world, trial: world.scheduler.on_trial_remove(world, trial),
    ],
)
def test_nobody_who_left_holds_the_barrier(leave: Callable[[World, FakeTrial], None]) -> None:
    world = World(3, synchronous=True)
    world.result(0, 0), world.result(1, 0)
    assert world.sent("train") == []
    leave(world, world.trials[2])
    assert world.sent("train") == [(0, "train"), (1, "train")]
    world.result(0, 1)
    assert world.result(1, 1) == "CONTINUE"


def test_a_parked_trial_that_dies_and_comes_back_catches_up_first() -> None:
    world = World(2, synchronous=True)
    assert world.result(0, 5) == "NOOP"
    world.scheduler.on_trial_error(world, world.trials[0])  # dies while it waits
    world.scheduler.on_trial_add(world, world.trials[0])
    assert world.result(1, 5) == "NOOP"  # it is waited for
    assert world.result(0, 3) == "CONTINUE"  # from an older state: alone
    assert world.result(0, 4) == "CONTINUE"
    assert world.sent("train") == []
    assert world.result(0, 5) == "CONTINUE"
    assert world.sent("train") == [(1, "train")]
    steps = [call[1] for call in world.controller.calls if call[0] == "step"]
    assert [tuple(s for _, s in step) for step in steps] == [(3, 3), (4, 4), (5, 5, 5, 5)]


def test_trials_end_together_at_the_barrier() -> None:
    world = World(3, synchronous=True, segments=2)
    for segment in (0, 1):
        answers = [world.result(trial, segment) for trial in range(3)]
    assert answers == ["NOOP", "NOOP", "STOP"]
    assert world.sent("stopped") == [(0, "stopped"), (1, "stopped")]
    assert all(entry[2].save for entry in world.sent("apply")[3:])


def test_one_trial_ends_the_others_go_on() -> None:
    world = World(2, synchronous=True, script=lambda report: Answer(stop=report.member < 2))
    world.result(0, 0)
    assert world.result(1, 0) == "CONTINUE"
    assert world.sent("stopped") == [(0, "stopped")]
    assert world.result(1, 1) == "CONTINUE"


# -- without private calls ---------------------------------------------------------------------------------------------


def test_an_unknown_ray_gets_pauses_and_configurations() -> None:
    world = World(in_place=False, script=lambda report: Answer(source=member(2) if report.member == 0 else KEEP))
    assert world.result(0, 0) == "PAUSE"
    assert world.log == []  # no call to any actor
    orders = world.trials[0].config["orders"]
    assert orders.copies == {0: FileTransfer(state_uri="/state/1", member=2, kind="member", segment=-1)}
    assert world.sink.flushes == 1
    world.trials[0].status = Trial.PAUSED
    assert world.scheduler.choose_trial_to_run(world) is world.trials[0]


def test_paused_trials_wait_at_the_barrier() -> None:
    world = World(in_place=False, synchronous=True)
    assert world.result(0, 0) == "PAUSE"
    world.trials[0].status = Trial.PAUSED
    assert world.scheduler.choose_trial_to_run(world) is None
    assert world.result(1, 0) == "PAUSE"
    assert world.scheduler.choose_trial_to_run(world) is world.trials[0]


def test_whether_to_go_in_place_is_decided_by_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    assert World().result(0, 0) == "NOOP"
    monkeypatch.setattr(adapter, "supports_in_place", lambda: False)
    assert World().result(0, 0) == "PAUSE"


def test_it_pickles_without_the_drivers_state() -> None:
    world = World()
    world.driver.controller = lambda: None  # type: ignore[assignment]  # nothing that pickles
    world.driver.sink = lambda: None  # type: ignore[assignment]
    world.scheduler._trials = {}
    copy = pickle.loads(pickle.dumps(world.scheduler))
    assert copy.driver.controller is None and copy.driver.restarts == 0
    assert copy.metric == "score" and not copy.supports_buffered_results
