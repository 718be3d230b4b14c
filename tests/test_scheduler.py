"""The one-line swap: what users pass in, what Tune pickles, and what a restored run finds again."""

from __future__ import annotations

import pickle
import time
from pathlib import Path
from typing import Any

import pytest
from ray import tune
from ray._private.state import actors

from raytune_rl import PBT, Agent, BadInput, MetaAgentScheduler, Random, roles
from raytune_rl.records import Report
from raytune_rl.tune.storage import StateStore
from raytune_rl.tune.trials.state import FOLDER
from tests.tune.trainables import Counter, DiesOnce, counting
from tests.tune.trials.runs import LR, UP, Do, Recording, Script, fit

cluster = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"segment_length": 0}, "segment_length is 0"),
        ({"segments": 0}, "segments is 0"),
        ({"copy_every": True}, "copy_every is True"),
        ({"mode": "best"}, "mode is 'best'"),
        ({"agent": "PPO"}, "agent is 'PPO'"),
        ({"hyperparameters": {}}, "at least one hyperparameter"),
        ({"hyperparameters": {"lr": tune.loguniform(1e-2, 1e-4)}}, "'lr'"),
        ({"hyperparameters": {"lr": lambda: 0.1}}, "'lr'"),
    ],
)
def test_mistakes_are_named_before_anything_runs(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        MetaAgentScheduler(**{"hyperparameters": LR, **settings})


def test_metric_and_mode_come_from_either_side_but_not_from_both() -> None:
    from_tune = MetaAgentScheduler(hyperparameters=LR)
    assert from_tune.set_search_properties("loss", "min", num_samples=4)
    assert from_tune.metric == "loss"
    assert from_tune.set_search_properties("loss", "min")  # a second fit with the same scheduler
    own = MetaAgentScheduler(hyperparameters=LR, metric="loss", mode="min")
    assert own.set_search_properties(None, None)
    assert own.metric == "loss"
    assert not own.set_search_properties("other", None)
    with pytest.raises(BadInput, match="mode"):
        MetaAgentScheduler(hyperparameters=LR).set_search_properties("loss", None)


@pytest.mark.parametrize("synchronous", [True, False])
def test_measured_times_stay_out_of_a_synchronous_run(synchronous: bool) -> None:
    scheduler = MetaAgentScheduler(
        hyperparameters=LR, agent=Random(), metric="loss", mode="min", segments=4, synchronous=synchronous
    )
    scheduler.set_search_properties(None, None, num_samples=1)
    controller = scheduler.build(None).controller
    controller.begin(0)
    controller.step([Report(member=0, segment=0, steps=1, metrics={"loss": 1.0}, seconds=3.0)])
    assert controller.members[0].seconds == (0.0 if synchronous else 3.0)


@pytest.mark.parametrize(
    ("stop", "settings", "segments"),
    [
        ({"training_iteration": 12, "done": True}, {"segment_length": 5}, 3),
        ({"training_iteration": 12}, {"segments": 7}, 7),
        ({"done": True}, {}, None),
        (None, {}, None),
    ],
)
def test_the_horizon_comes_from_the_stop_criterion(stop: Any, settings: Any, segments: int | None) -> None:
    scheduler = MetaAgentScheduler(hyperparameters=LR, agent=Random(), **settings)
    scheduler.set_search_properties("loss", "min", stop=stop)
    assert scheduler.build(None).controller.segments == segments


def test_a_pickle_holds_the_settings_only() -> None:
    for agent in (Agent(), PBT()):
        scheduler = MetaAgentScheduler(hyperparameters=LR, agent=agent, segment_length=3, seed=5)
        scheduler.set_search_properties("loss", "min", num_samples=4)
        scheduler._core = scheduler.build(None)
        again = pickle.loads(pickle.dumps(scheduler))
        assert again._core is None
        assert (again.segment_length, again.seed, again.space) == (3, 5, scheduler.space)
        assert len(pickle.dumps(scheduler)) < 10_000


def test_the_policy_in_the_settings_is_left_as_it_was() -> None:
    agent = PBT()
    scheduler = MetaAgentScheduler(hyperparameters=LR, agent=agent)
    scheduler.set_search_properties("loss", "min")
    assert scheduler.build(None).controller.policy is not agent
    assert not hasattr(agent, "_action")


class StopsAll(tune.Stopper):
    """Ends the experiment after three results, of which Tune tells no scheduler."""

    def __init__(self) -> None:
        self.results = 0

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        self.results += 1
        return False

    def stop_all(self) -> bool:
        return self.results >= 3


class TestInACluster:
    pytestmark = cluster

    def test_starting_values_are_those_of_the_param_space_within_bounds(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        _, scheduler = fit(tmp_path, Counter, lrs=(0.1, 1e-9), iterations=2)
        assert [scheduler.reports(m)[0].metrics["lr_used"] for m in (0, 1)] == [0.1, 0.001]
        assert sum("lies outside" in message for message in caplog.messages) == 1

    def test_hyperparameters_that_the_param_space_lacks_are_filled_in(self, tmp_path: Path) -> None:
        for n, space in enumerate(({"hyperparameters": {**LR, "other": [1, 2]}}, {})):
            scheduler = Recording(**{"hyperparameters": LR, "agent": Script(), **space})
            results = tune.Tuner(
                Counter,
                param_space={"lr": 0.1} if space else {},
                tune_config=tune.TuneConfig(metric="total", mode="max", num_samples=3, scheduler=scheduler),
                run_config=tune.RunConfig(
                    name=str(n), storage_path=str(tmp_path), verbose=0, stop={"training_iteration": 2}
                ),
            ).fit()
            assert not results.errors
            values = [scheduler.reports(member)[0].hyperparameters for member in range(3)]
            if space:
                assert all(v["lr"] == 0.1 and v["other"] in (1, 2) for v in values)
            else:
                assert len({v["lr"] for v in values}) == 3  # spread over the range

    def test_the_agent_is_let_go_when_the_run_is_over(self, tmp_path: Path) -> None:
        _, scheduler = fit(tmp_path, Counter, iterations=2)
        assert scheduler.core.controller.policy.closed == 1  # type: ignore[attr-defined]

    @pytest.mark.parametrize("way", ["failure", "stopper"])
    def test_the_agent_is_let_go_when_a_run_is_cut_short(self, tmp_path: Path, way: str) -> None:
        constants = {"marker": str(tmp_path / "died")}
        scheduler = Recording(hyperparameters=LR, agent=Script())
        tune.Tuner(
            DiesOnce if way == "failure" else Counter,
            param_space={"lr": tune.grid_search([0.1, 1.0]), "sleep": 0.05, **constants},
            tune_config=tune.TuneConfig(metric="total", mode="max", scheduler=scheduler),
            run_config=tune.RunConfig(
                storage_path=str(tmp_path),
                verbose=0,
                failure_config=tune.FailureConfig(fail_fast=True),
                stop=StopsAll() if way == "stopper" else None,
            ),
        ).fit()
        assert scheduler.core.controller.policy.closed == 1  # type: ignore[attr-defined]

    def test_a_learning_agent_steers_learns_and_leaves_no_actor(self, tmp_path: Path) -> None:
        agent = Agent(batch=8, hidden=(8,))
        results, scheduler = fit(
            tmp_path, Counter, lrs=(0.1, 1.0), iterations=15, agent=agent, constants={"sleep": 0.1}
        )
        assert not results.errors
        policy: Any = scheduler.core.controller.policy
        assert policy.transitions >= 24
        changed = [r.hyperparameters["lr"] for r in scheduler.reports(0)]
        assert len(set(changed)) > 3
        assert all(1e-3 <= value <= 10.0 for value in changed)
        assert (tmp_path / "run" / FOLDER / "agent").is_dir()
        deadline = time.monotonic() + 20  # Ray kills without waiting
        while alive := [a for a in actors().values() if a["State"] == "ALIVE" and "_Host" in a["ActorClassName"]]:
            assert time.monotonic() < deadline, alive
            time.sleep(0.1)

    def test_a_new_run_in_the_same_place_begins_anew(self, tmp_path: Path) -> None:
        fit(tmp_path, Counter, {(0, 1): Do(UP)}, iterations=3)
        _, scheduler = fit(tmp_path, Counter, iterations=3)
        assert [r.segment for r in scheduler.reports(0)] == [0, 1, 2]
        assert {r.metrics["lr_used"] for r in scheduler.reports(0)} == {0.1}

    def test_a_restored_run_goes_on_with_what_it_knew(self, tmp_path: Path) -> None:
        # One trial fails for good; restoring with restart brings it back, to a scheduler from tuner.pkl.
        constants = {"marker": str(tmp_path / "died"), "sleep": 0.02}
        checkpoints = tune.CheckpointConfig(checkpoint_frequency=1)
        results, before = fit(
            tmp_path, DiesOnce, {(0, 2): Do(UP)}, iterations=8, constants=constants, checkpoints=checkpoints
        )
        assert len(results.errors) == 1
        path = tmp_path / "run"
        tuner = tune.Tuner.restore(str(path), tune.with_resources(DiesOnce, {"CPU": 1}), resume_errored=True)
        results = tuner.fit()
        assert not results.errors
        saved = StateStore(str(path / FOLDER)).load()
        assert saved is not None
        assert saved["members"] == before.core.get_state()["members"]
        track = saved["tracks"][0]
        assert [round(opening["values"]["lr"], 6) for opening in track["openings"]] == [0.1] * 2 + [0.16] * 6
        assert [opening["at"] for opening in track["openings"]] == list(range(8))
        assert saved["controller"]["histories"][0]["states"][8]["segment"] == 8
        assert sorted(r.metrics["total"] for r in results) == pytest.approx([0.2 + 6 * 0.16, 8.0])

    def test_a_function_with_nested_values(self, tmp_path: Path) -> None:
        def nested(config: dict[str, Any]) -> None:
            counting({"lr": config["optimizer"]["lr"], "steps": 4})

        scheduler = Recording(
            hyperparameters={"optimizer/lr": roles.learning_rate(tune.loguniform(1e-3, 10.0))},
            agent=Script({(0, 2): Do(UP)}),
        )
        results = tune.Tuner(
            nested,
            param_space={"optimizer": {"lr": 0.1, "other": 1}},
            tune_config=tune.TuneConfig(metric="total", mode="max", scheduler=scheduler, reuse_actors=True),
            run_config=tune.RunConfig(storage_path=str(tmp_path), verbose=0),
        ).fit()
        assert not results.errors
        assert [r.metrics["lr_used"] for r in scheduler.reports(0)] == pytest.approx([0.1, 0.1, 0.16, 0.16])
        assert results[0].config["optimizer"] == {"lr": pytest.approx(0.16), "other": 1}
