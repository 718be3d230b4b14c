from __future__ import annotations

from pathlib import Path

import pytest

from raytune_rl.analysis import Run
from raytune_rl.analysis.replay import replayed
from raytune_rl.controller.policies import Replay
from raytune_rl.errors import BadInput
from tests.analysis.runs import experiment_of


def test_one_member_follows_the_best_members_schedule(directory: Path) -> None:
    experiment = experiment_of(compare="random", schedule="cosine")
    schedule = Run.load(directory).schedule()
    again = replayed(experiment, directory)
    assert isinstance(again.agent, Replay)
    assert again.agent.requirements.prescribed == schedule.values_for(experiment.space())
    assert (again.population, again.segments) == (1, len(schedule))
    assert (again.schedule, again.compare) == ("constant", None), "the values are those that were in force"
    assert again.seed == experiment.seed and again.candidate is experiment.candidate


def test_that_a_refit_is_not_replayed_is_said(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("raytune_rl.analysis.replay.refit_cost", lambda summary: (8, 1.0))
    assert not replayed(experiment_of(), directory).refit
    assert "ended with a refit, which is not replayed" in caplog.text


def test_a_run_of_another_experiment_is_refused(directory: Path, tmp_path: Path) -> None:
    length = Run.load(directory).schedule().segment_length
    with pytest.raises(BadInput, match="segment_length was"):
        replayed(experiment_of(segment_length=length + 1), directory)
    with pytest.raises(BadInput, match="a replay needs the same hyperparameters"):
        replayed(experiment_of(hyperparameters={"lr": experiment_of().hyperparameters["lr"]}), directory)
    with pytest.raises(BadInput, match="--replay"):
        replayed(experiment_of(), tmp_path / "nowhere")
