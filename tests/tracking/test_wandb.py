"""Members as offline runs of Weights & Biases, by Ray's ``WandbLoggerCallback``, without a network or an account."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raytune_rl.controller.policies import PBT
from raytune_rl.rundir import RunDirectory
from raytune_rl.tracking import Tracker
from tests.controller.worlds import Paper, make_controller

wandb: Any = pytest.importorskip("wandb")

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


def records(folder: Path) -> Iterator[Any]:
    """What a run's ``.wandb`` file holds, by wandb's own reader."""
    from wandb.proto import wandb_internal_pb2
    from wandb.sdk.internal.datastore import DataStore

    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    store = DataStore()
    store.open_for_scan(str(file))
    while (data := store.scan_data()) is not None:
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        yield record


def test_wandb_has_an_offline_run_per_member(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.air.integrations.wandb import WandbLoggerCallback

    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    directory = RunDirectory(tmp_path / "run").create()
    callback = WandbLoggerCallback(project="paper", mode="offline")
    world = Paper(make_controller(PBT(), population=2), members=2)
    steps = []
    with Tracker((callback,), directory, name="paper", members=2) as tracker:
        for _ in range(6):
            steps.append(world.generation())
            tracker.record(steps[-1])
    group = directory.read_json("state/tracking.json")["group"]
    for member in range(2):
        found = list(records(tmp_path / "run" / "wandb" / f"member-{member}"))
        (run,) = [record.run for record in found if record.WhichOneof("record_type") == "run"]
        assert (run.project, run.run_group, run.display_name) == ("paper", group, f"{group}-member-{member}")
        rows = [
            {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
            for record in found
            if record.WhichOneof("record_type") == "history"
        ]
        assert [row["loss"] for row in rows] == [pytest.approx(s.reports[member].metrics["loss"]) for s in steps]
        assert [row["_step"] for row in rows] == [1, 2, 3, 4, 5, 6]
        assert rows[-1]["hp/lr"] == pytest.approx(steps[-1].reports[member].hyperparameters["lr"])
