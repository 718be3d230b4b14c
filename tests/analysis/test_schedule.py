from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ray import tune

from raytune_rl import BadInput, roles
from raytune_rl.analysis import Leg, Run, Schedule
from raytune_rl.controller.policies import Replay
from raytune_rl.hyperparameters import SearchSpace
from raytune_rl.rundir.layout import RunDirectory
from tests.analysis.runs import HYPERPARAMETERS, experiment_of, train

SPACE = SearchSpace.from_specs(
    {
        "lr": roles.learning_rate(tune.loguniform(1e-5, 1.0)),
        "layers": tune.randint(1, 5),
        "size": tune.choice([32, 64.5]),
        "mixed": tune.choice(["auto", 1, True]),
    }
)


def schedule(**values: Any) -> Schedule:
    leg = Leg(member=0, segment=0, hyperparameters={"lr": 0.1, "layers": 2, "size": 32.0, "mixed": "1", **values})
    return Schedule(name="s", metric="loss", mode="min", segment_length=5, legs=(leg,))


def test_it_survives_json(run: Run, tmp_path: Path) -> None:
    ours = run.schedule()
    assert Schedule.from_json(ours.to_json()) == ours
    assert Schedule.from_json(ours.save(tmp_path / "s.json").read_text()) == ours


def test_it_follows_the_weights_of_the_best(run: Run) -> None:
    ours = run.schedule()
    path = run.best_path
    assert [(leg.member, leg.segment) for leg in ours.legs] == list(zip(path["member"], path["segment"], strict=True))
    assert [leg.hyperparameters["lr"] for leg in ours.legs] == path["hp/lr"].tolist()
    assert ours.value == path["metric/loss"].iloc[-1]
    assert ours.copies == (path["member"].diff().fillna(0) != 0).sum() > 0
    assert len(ours) == len(ours.values) == len(path)
    assert {type(v) for v in ours.values[0].values()} == {float, int, str}  # as they were, not numpy's
    assert (ours.metric, ours.mode, ours.segment_length, ours.name) == ("loss", "min", 1, "paper")


def test_any_members_schedule_can_be_had(run: Run) -> None:
    early = run.schedule(0, 3)
    assert (early.legs[-1].member, early.legs[-1].segment) == (0, 3)
    assert run.schedule(5).legs[-1].segment == 11
    with pytest.raises(BadInput, match="member 99"):
        run.schedule(99)
    with pytest.raises(BadInput, match="member 0, segment 77"):
        run.schedule(0, 77)


def test_a_fresh_member_trained_by_it_repeats_the_path(run: Run, tmp_path: Path) -> None:
    ours = run.schedule()
    experiment = experiment_of(agent=Replay(ours.values_for(experiment_of().space())), population=1, segments=len(ours))
    again = RunDirectory(tmp_path / "again")
    again.make_directory("")
    train(again, experiment, experiment.agent, None)
    segments = again.read_table("segments.parquet")
    names = [f"hp/{name}" for name in HYPERPARAMETERS]
    assert segments[names].to_dict("records") == run.best_path[names].to_dict("records")
    # The same values on new weights and other noise: about as good.
    assert segments["metric/loss"].iloc[-1] == pytest.approx(ours.value, rel=0.5)


def test_values_take_the_types_of_the_space() -> None:
    (values,) = schedule().values_for(SPACE)
    assert values == {"lr": 0.1, "layers": 2, "size": 32, "mixed": 1}
    assert [type(values[name]) for name in ("layers", "size", "mixed")] == [int, int, int]
    (values,) = schedule(layers=3.0, mixed="True", size=64.5).values_for(SPACE)
    assert values["mixed"] is True and values["size"] == 64.5 and type(values["layers"]) is int


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mixed": "other"}, "mixed='other'.*'auto', 1, True"),
        ({"lr": "fast"}, "lr='fast'"),
        ({"lr": float("nan")}, "lr=nan"),
        ({"momentum": 0.9}, "momentum"),
    ],
)
def test_values_that_the_space_cannot_take_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        schedule(**values).values_for(SPACE)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"schema_version": 1}',
        '{"schema_version": 1, "name": "x", "metric": "m", "mode": "up", "segment_length": 1, "segments": []}',
        '{"schema_version": 1, "name": "x", "metric": "m", "mode": "min", "segment_length": 1, "segments": []}',
        json.dumps(
            {"schema_version": 1, "name": "x", "metric": "m", "mode": "min", "segment_length": 1}
            | {"segments": [{"member": 0, "segment": 0, "hyperparameters": {"lr": [1]}}]}
        ),
    ],
)
def test_what_is_no_schedule_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(BadInput, match="schedule"):
        Schedule.from_json(text)


def test_a_newer_schedule_asks_for_an_upgrade(run: Run) -> None:
    newer = json.dumps({**json.loads(run.schedule().to_json()), "schema_version": 99})
    with pytest.raises(BadInput, match=r"newer.*upgrade"):
        Schedule.from_json(newer)


def test_a_path_that_is_not_whole_is_not_guessed(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    copy = run.lineage[run.lineage["on_best_path"]].iloc[0]
    lost = (run.segments["member"] == copy["donor"]) & (run.segments["segment"] == copy["donor_segment"])
    damaged = replace(run, segments=run.segments[~lost].reset_index(drop=True))
    best = run.best
    with pytest.raises(BadInput, match="not wholly in the table"):
        damaged.schedule(best.member, best.segment)
    # Without a wish, the best weights whose path is known take their place, and that is said.
    assert len(damaged.schedule().values) > 0
    assert "instead: the path to member" in caplog.text


def test_nothing_trained_has_no_schedule(run: Run) -> None:
    with pytest.raises(BadInput, match="no best member yet"):
        replace(run, segments=run.segments.iloc[:0], summary=None).schedule()
