"""Runs that are gone on with: by the experiment that they were of, and by later versions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from ray import tune

from raytune_rl import BadInput, roles
from raytune_rl.rundir.layout import RunDirectory
from raytune_rl.rundir.plain import plain
from raytune_rl.runs.resume import begin, opened, resolved_fields
from raytune_rl.tune import storage
from raytune_rl.tune.storage import StateStore
from tests import paper_experiment
from tests.blobs_experiment import make


def test_what_an_older_version_did_not_know_had_its_default(tmp_path: Path) -> None:
    experiment = make(ensemble=None)
    begin(RunDirectory(tmp_path / "run"), experiment)
    file = tmp_path / "run" / "experiment.json"
    content = json.loads(file.read_text())
    del content["experiment"]["refit"]
    file.write_text(json.dumps(content))
    opened(RunDirectory(tmp_path / "run"), experiment)
    with pytest.raises(BadInput, match="refit is None there and True here"):
        opened(RunDirectory(tmp_path / "run"), replace(experiment, refit=True))


def test_what_is_written_down_tells_search_spaces_apart() -> None:
    experiment = paper_experiment.make(
        hyperparameters={"lr": roles.learning_rate(tune.loguniform(1e-4, 1e-1)), "kind": ["a", "b"]}
    )
    written = plain(resolved_fields(experiment))
    assert isinstance(written, dict)
    found = written["hyperparameters"]
    assert found["lr"]["role"] == "learning_rate"
    assert (found["lr"]["lower"], found["lr"]["upper"], found["lr"]["log"]) == (1e-4, 1e-1, True)
    assert found["kind"]["options"] == ["a", "b"]
    wider = replace(experiment, hyperparameters={**experiment.hyperparameters, "lr": tune.loguniform(1e-5, 1e-1)})
    assert plain(resolved_fields(wider)) != written


def test_a_run_of_another_version_is_refused_before_anything_is_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = make(ensemble=None)
    directory = RunDirectory(tmp_path / "run")
    begin(directory, experiment)
    store = StateStore(directory.uri("state/driver"))
    store.save({"counts": {}})
    opened(directory, experiment)
    with monkeypatch.context() as older:
        older.setattr(storage, "VERSION", storage.VERSION - 1)
        store.save({"counts": {}})
    monkeypatch.setattr(storage.pickle, "loads", None)
    with pytest.raises(BadInput, match=r"--resume .*: the run's state was written by another version"):
        opened(directory, experiment)
