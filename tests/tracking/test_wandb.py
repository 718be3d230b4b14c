"""Members as offline runs of Weights & Biases, by Ray's ``WandbLoggerCallback``, without a network or an account."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from raytune_rl.controller.policies import PBT
from raytune_rl.rundir import RunDirectory
from raytune_rl.tracking import Tracker
from tests.controller.worlds import Paper, make_controller

wandb: Any = pytest.importorskip("wandb")

pytestmark = pytest.mark.usefixtures("ray_cluster")

KEY = "0123456789abcdef0123456789abcdef01234567"


def records(file: Path) -> Iterator[Any]:
    """What a ``.wandb`` file holds, by wandb's own definition of it. Its frame is LevelDB's log: blocks of 32 KiB, in
    which each part of a record follows its checksum, length and kind (whole, first, middle, last)."""
    from wandb.proto import wandb_internal_pb2

    data, at, whole = file.read_bytes(), 7, b""
    assert data.startswith(b":W&B")
    while at + 7 <= len(data):
        rest = 32768 - at % 32768
        if rest < 7:
            at += rest
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def rows_of(found: list[Any]) -> list[dict[str, Any]]:
    return [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in found
        if record.WhichOneof("record_type") == "history"
    ]


def test_wandb_has_an_offline_run_per_member_and_no_key_leaves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.air.integrations.wandb import WandbLoggerCallback

    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    directory = RunDirectory(tmp_path / "run").create()
    world = Paper(make_controller(PBT(), population=2), members=2)
    steps = []
    callback = WandbLoggerCallback(project="paper", mode="offline", api_key=KEY)
    with Tracker((callback,), directory, name="paper", members=2) as tracker:
        for _ in range(6):
            steps.append(world.generation())
            tracker.record(steps[-1])
    group = directory.read_json("state/tracking.json")["group"]
    for member in range(2):
        (file,) = (tmp_path / "run" / "wandb" / f"member-{member}" / "wandb").glob("offline-run-*/*.wandb")
        found = list(records(file))
        runs = [record.run for record in found if record.WhichOneof("record_type") == "run"]
        assert {(run.project, run.run_group, run.display_name, run.run_id) for run in runs} == {
            ("paper", group, f"{group}-member-{member}", f"member-{member}-{group.removeprefix('paper-')}")
        }
        rows = rows_of(found)
        assert [row["_step"] for row in rows] == [1, 2, 3, 4, 5, 6]
        assert [row["loss"] for row in rows] == [pytest.approx(s.reports[member].metrics["loss"]) for s in steps]
        assert rows[-1]["hp/lr"] == pytest.approx(steps[-1].reports[member].hyperparameters["lr"])
    check_secret(tmp_path)
    check_secret(Path(ray._private.worker._global_node.get_logs_dir_path()))


def check_secret(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 8
    assert [str(path) for path in files if KEY.encode() in path.read_bytes()] == []
