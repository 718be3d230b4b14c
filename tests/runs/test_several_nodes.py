"""A run on several nodes, one of which dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from ray.cluster_utils import Cluster

ROOT = Path(__file__).parents[2]
MEMBERS, SEGMENTS, DEADLINE = 6, 60, 240.0

EXPERIMENT = f"""
from raytune_rl import PBT
from tests.paper_experiment import PaperTask, make

experiment = make(
    candidate=PaperTask(seconds=0.1), agent=PBT(), population={MEMBERS}, segments={SEGMENTS}, checkpoint_every=1.0
)
"""

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    three = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(2):
        three.add_node(num_cpus=1)
    yield three
    three.shutdown()


def rows(directory: Path) -> pd.DataFrame:
    if not (directory / "segments.parquet").exists():
        return pd.DataFrame({"member": [], "segment": [], "node": [], "copied_from": []})
    return pd.read_parquet(directory / "segments.parquet")


def wait_for(directory: Path, count: int, run: subprocess.Popen[str]) -> pd.DataFrame:
    deadline = time.monotonic() + DEADLINE
    while len(table := rows(directory)) < count:
        assert run.poll() is None, f"the run ended early:\n{run.communicate()[0]}"
        assert time.monotonic() < deadline, f"{len(table)} rows after {DEADLINE} s"
        time.sleep(0.2)
    return table


def test_members_spread_copy_across_nodes_and_outlive_one(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "exp.py").write_text(EXPERIMENT)
    out = tmp_path / "run"
    run = subprocess.Popen(
        [sys.executable, "-m", "raytune_rl.run", "exp.py", "--address", cluster.address, "--out", str(out)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        before = wait_for(out, MEMBERS * SEGMENTS // 3, run)
        assert before["node"].nunique() == 3, "two members on each node"
        victim = cluster.list_all_nodes()[-1]
        cluster.remove_node(victim, allow_graceful=False)
        output, _ = run.communicate(timeout=DEADLINE)
    finally:
        run.kill()
    assert run.returncode == 0, output
    after = rows(out)
    keys = set(zip(after["member"], after["segment"], strict=True))
    assert len(keys) == len(after), "no row twice"
    assert keys == {(m, s) for m in range(MEMBERS) for s in range(SEGMENTS)}, "none missing"
    home = after.groupby("member")["node"].first()
    copies = after.dropna(subset=["copied_from"])
    crossed = [home[row.member] != home[row.copied_from] for row in copies.itertuples()]
    assert any(crossed), "weights went from node to node"
    moved = after.groupby("member")["node"].nunique()
    assert (moved > 1).sum() == 2, "the two members of the dead node went on elsewhere"
    assert json.loads((out / "summary.json").read_text())["counts"]["segments"] == MEMBERS * SEGMENTS
