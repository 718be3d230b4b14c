"""Members in a real MLflow store, by Ray's ``MLflowLoggerCallback``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.tracking.test_loggers import log, play, population

mlflow: Any = pytest.importorskip("mlflow")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    return f"sqlite:///{tmp_path}/mlflow.db"


def runs_of(store: str) -> list[Any]:
    client = mlflow.MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name("paper")
    return sorted(client.search_runs([experiment.experiment_id]), key=lambda run: run.info.run_name)


def history(store: str, run: Any, metric: str) -> list[tuple[int, float]]:
    client = mlflow.MlflowClient(tracking_uri=store)
    return [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, metric)]


def test_mlflow_has_a_run_per_member_and_goes_on_with_it(tmp_path: Path, store: str) -> None:
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    from raytune_rl.tracking.loggers import Loggers

    steps = play()
    callback = MLflowLoggerCallback(tracking_uri=store, experiment_name="paper", tags={"team": "a"})
    assert log(Loggers((callback,), population(tmp_path), tensorboard=False), steps[:4]) == []
    assert [run.info.status for run in runs_of(store)] == ["FAILED"] * 4  # interrupted
    # Another process, another callback, and values that have moved meanwhile.
    callback = MLflowLoggerCallback(tracking_uri=store, experiment_name="paper")
    again = Loggers((callback,), population(tmp_path, resumed=True), tensorboard=False)
    assert log(again, steps[3:]) == []
    runs = runs_of(store)
    assert [run.info.run_name for run in runs] == [f"paper-0a1b2c3d-member-{m}" for m in range(4)]
    for member, run in enumerate(runs):
        assert run.info.status == "FINISHED"
        assert run.data.tags["team"] == "a"
        start = steps[0].reports[member].hyperparameters
        assert run.data.params == {name: str(value) for name, value in start.items()}
        losses = [step.reports[member].metrics["loss"] for step in steps]
        assert history(store, run, "loss") == [(i + 1, pytest.approx(losses[i])) for i in (0, 1, 2, 3, 3, 4, 5)]
        rates = [step.reports[member].hyperparameters["lr"] for step in steps]
        assert history(store, run, "hp/lr")[-1] == (6, pytest.approx(rates[-1]))
        assert len(history(store, run, "agent/reward")) == 7
    assert not (tmp_path / "mlruns").exists()
