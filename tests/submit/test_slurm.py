"""The batch script, executed by bash with what Slurm would set, and a real Ray of two nodes on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from raytune_rl.errors import BadInput
from raytune_rl.submit.job import Job
from raytune_rl.submit.slurm import Slurm

FILE = Path(__file__).with_name("experiment.py")
ROOT = Path(__file__).parents[2]
SEGMENTS = 1500

# Slurm's programs, as far as the script needs them: every node is this machine.
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do echo "$1" >>"$CALLS"; shift; done
exec "$@"
"""
SCONTROL = """#!/bin/bash
[ "$1 $2 $3" = "show hostnames node[1-2]" ] && printf 'node1\\nnode2\\n'
"""


def job(out: Path | None, *options: str, folder: Path = FILE.parent) -> Job:
    return Job(
        file=folder / FILE.name,
        name="small",
        ident="small-1",
        storage="results",
        out=str(out) if out else None,
        options=options,
    )


def test_the_header_says_what_was_asked_for() -> None:
    script = Slurm(
        nodes=3, gpus=2, cpus=8, memory="64G", options={"time": "1:00:00"}, setup=("module load x",)
    ).preview(job(Path("/shared/run"), "--seed", "2"))
    for line in ("nodes=3", "gpus-per-node=2", "cpus-per-task=8", "mem=64G", "time=1:00:00", "signal=B:TERM@120"):
        assert f"#SBATCH --{line}\n" in script
    assert "\nmodule load x\n" in script
    assert "--seed 2" in script
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_paths_with_spaces_stay_one_word(tmp_path: Path) -> None:
    script = Slurm().preview(job(tmp_path / "a run", folder=tmp_path / "my files"))
    assert f"cd '{tmp_path}/my files'\n" in script
    assert f"out='{tmp_path}/a run'\n" in script


def test_an_option_cannot_smuggle_a_line_in() -> None:
    with pytest.raises(BadInput, match="one line"):
        Slurm(options={"time": "1\nrm -rf x"}).preview(job(None))


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(280)
def test_the_script_makes_a_cluster_and_goes_on_where_slurm_stopped_it(tmp_path: Path) -> None:
    bin_, folder, out = tmp_path / "bin", tmp_path / "experiment", tmp_path / "run"
    bin_.mkdir()
    folder.mkdir()
    (folder / FILE.name).write_text(FILE.read_text())
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (bin_ / name).write_text(text)
        (bin_ / name).chmod(0o755)
    options = ("--set", f"segments={SEGMENTS}", "--set", "checkpoint_every=1")
    script = tmp_path / "job.sh"
    script.write_text(Slurm(nodes=2, cpus=1, python=sys.executable).preview(job(out, *options, folder=folder)))
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "PATH": f"{bin_}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "CALLS": str(tmp_path / "calls"),
        "SLURM_JOB_ID": str(30000 + os.getpid() % 10000),
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_NNODES": "2",
        "SLURM_CPUS_ON_NODE": "1",
    }
    log = tmp_path / "log"
    with log.open("wb") as output:
        first = subprocess.Popen(["bash", str(script)], env=environment, stdout=output, stderr=output)
        end = time.monotonic() + 120
        while first.poll() is None and rows(out) < 20:
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        first.terminate()  # as Slurm does before the time is up
        assert first.wait(60) == 130, log.read_text()
    assert 0 < rows(out) < 2 * SEGMENTS
    assert not list(folder.glob(".raytune_rl-token-*")), "the token outlived the job"
    assert {"--nodelist=node1", "--nodelist=node2"} <= set((tmp_path / "calls").read_text().split())
    assert pd.read_parquet(out / "segments.parquet")["node"].nunique() == 2, "both nodes were to train"
    again = subprocess.run(["bash", str(script)], env=environment, capture_output=True, text=True, timeout=150)
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
    assert json.loads((out / "summary.json").read_text())["counts"]["segments"] == 2 * SEGMENTS


def rows(out: Path) -> int:
    return len(pd.read_parquet(out / "segments.parquet")) if (out / "segments.parquet").is_dir() else 0
