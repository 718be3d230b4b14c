from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from pyarrow import fs

from raytune_rl.analysis import Run
from raytune_rl.controller.policies import PBT
from raytune_rl.records import Step
from raytune_rl.rundir.layout import RunDirectory, SchemaError
from raytune_rl.rundir.tables import TableWriter
from tests.analysis.runs import edit_json, write_run
from tests.rundir.steps import report, step


def test_a_run_is_read_as_it_was_written(run: Run, directory: Path) -> None:
    assert (run.name, run.metric, run.mode, run.seed, run.planned) == ("paper", "loss", "min", 0, 96)
    assert run.agent == "PBT(quantile=0.25)" and run.finished
    assert run.hyperparameters == ("lr", "dropout", "batch_size", "init")
    order = ["member", "segment"]
    for name in ("segments", "decisions"):
        whole = pd.read_parquet(directory / f"{name}.parquet").sort_values(order, ignore_index=True)
        pd.testing.assert_frame_equal(getattr(run, name), whole)
    assert run.baseline is not None and len(run.baseline) == 96
    summary = json.loads((directory / "summary.json").read_text())
    assert run.best is not None and run.best.value == summary["best"]["value"]
    assert run.best.metrics["test_loss"] == 0.4


def test_a_run_is_called_after_its_agent_before_and_after_its_end(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "running", agent=PBT(), finished=False)
    edit_json(directory / "experiment.json", agent="PBT(quantile=0.25)")
    assert not Run.load(directory).finished and Run.load(directory).agent == "PBT(quantile=0.25)"


def test_a_run_that_goes_on_is_read_at_every_moment(tmp_path: Path) -> None:
    source = write_run(tmp_path / "source", agent=PBT(), finished=False)
    running = tmp_path / "running"
    running.mkdir()
    shutil.copy(source / "experiment.json", running)
    before_tables = Run.load(running)
    assert before_tables.segments.empty and before_tables.best is None and not before_tables.finished
    assert before_tables.members.empty and before_tables.lineage.empty and before_tables.anytime.empty
    writer = TableWriter(RunDirectory(running), hyperparameters={}, features=["rank"], actions=["source"])
    assert Run.load(running).segments.empty
    for segment in range(3):
        taken: Step = step(report(0, segment, value=3.0 - segment), report(1, segment, value=float("nan")))
        writer.write(taken)
        writer.flush()
        now = Run.load(running)
        assert len(now.segments) == len(now.decisions) == 2 * (segment + 1)
        assert now.best is not None and now.best.value == 3.0 - segment
        assert now.schedule().value == 3.0 - segment


def test_any_filesystem_that_pyarrow_opens(run: Run, directory: Path) -> None:
    there = fs.SubTreeFileSystem(str(directory.parent), fs.LocalFileSystem())
    for where in (directory.as_uri(), RunDirectory(directory.name, there)):
        assert Run.load(where).segments.equals(run.segments)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="not a run directory"):
        Run.load(tmp_path)


def test_newer_and_damaged_runs_are_refused(directory: Path, tmp_path: Path) -> None:
    for name, content, message in (
        ("experiment.json", None, "newer.*upgrade"),
        ("experiment.json", "{", "damaged"),
        ("experiment.json", '{"schema_version": 1}', "describes no experiment"),
        ("summary.json", "{}", "schema_version"),
    ):
        copy = tmp_path / "copy"
        shutil.copytree(directory, copy)
        if content is None:
            edit_json(copy / name, schema_version=99)
        else:
            (copy / name).write_text(content)
        with pytest.raises(SchemaError, match=message):
            Run.load(copy)
        shutil.rmtree(copy)


def test_nothing_is_unpickled_and_nothing_heavy_imported(directory: Path) -> None:
    program = """
import pickle, sys
def refuse(*_, **__): raise AssertionError("unpickled")
pickle.load = pickle.loads = pickle.Unpickler = refuse
from raytune_rl.analysis import Run
run = Run.load(sys.argv[1])
run.members, run.lineage, run.schedule(), run.scales
print(sorted({"ray", "torch", "matplotlib"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program, str(directory)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_the_incumbent_that_was_trained_over_falls_back_to_the_table(directory: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    best = json.loads((copy / "summary.json").read_text())["best"]
    edit_json(copy / "summary.json", best={**best, "segment": 999})
    run = Run.load(copy)
    assert run.best is not None and run.best.segment == 999
    assert run.best_path["segment"].iloc[-1] == 11
