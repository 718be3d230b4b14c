from __future__ import annotations

from dataclasses import replace

from ray import tune

from raytune_rl import composition, roles
from raytune_rl.rundir.plain import plain
from tests.paper_experiment import make


def test_what_is_written_down_tells_search_spaces_apart() -> None:
    experiment = make(hyperparameters={"lr": roles.learning_rate(tune.loguniform(1e-4, 1e-1)), "kind": ["a", "b"]})
    written = plain(composition.resolved_fields(experiment))
    assert isinstance(written, dict)
    found = written["hyperparameters"]
    assert found["lr"]["role"] == "learning_rate"
    assert (found["lr"]["lower"], found["lr"]["upper"], found["lr"]["log"]) == (1e-4, 1e-1, True)
    assert found["kind"]["options"] == ["a", "b"]
    wider = replace(experiment, hyperparameters={**experiment.hyperparameters, "lr": tune.loguniform(1e-5, 1e-1)})
    assert plain(composition.resolved_fields(wider)) != written
