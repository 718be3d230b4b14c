"""``kill -9`` at any moment: no row twice, no flushed row lost, and readers never notice."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from raytune_rl.rundir.layout import DECISIONS, SEGMENTS, RunDirectory

ROOT = Path(__file__).parents[2]
EVENTS, TIMES = 40, 15


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "run").create()


@pytest.fixture
def server(directory: RunDirectory) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.rundir.killed_writer", str(directory)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def ask(server: subprocess.Popen[str], kind: str, number: int, seed: int) -> tuple[int, list[tuple[int, int]]]:
    """Let a writer run; its exit code and the rows that it had flushed."""
    assert server.stdin is not None and server.stdout is not None
    server.stdin.write(f"{kind} {number} {seed}\n")
    server.stdin.flush()
    code, *flushed = server.stdout.readline().split()
    return int(code), [(int(m), int(s)) for m, s in (pair.split(",") for pair in flushed)]


def check(directory: RunDirectory, flushed: dict[tuple[int, int], int]) -> None:
    for name in (SEGMENTS, DECISIONS):
        frame = pd.read_parquet(directory.path(name))
        assert not frame.duplicated(["member", "segment"]).any()
        assert set(flushed) <= set(zip(frame["member"], frame["segment"], strict=True))
        if name == SEGMENTS and len(frame):
            values = frame.set_index(["member", "segment"])["metric/loss"].to_dict()
            assert all(values[key] >= seed for key, seed in flushed.items())


def test_killed_at_every_kind_of_moment(directory: RunDirectory, server: subprocess.Popen[str]) -> None:
    rng = random.Random(0)
    flushed: dict[tuple[int, int], int] = {}
    code, rows = ask(server, "never", 0, 0)
    assert code == 0
    kills = 0
    flushed.update(dict.fromkeys(rows, 0))
    moments = [("event", number) for number in range(1, EVENTS + 1)]
    moments += [("time", rng.randint(0, 60_000)) for _ in range(TIMES)]
    rng.shuffle(moments)
    for seed, (kind, number) in enumerate(moments, start=1):
        code, rows = ask(server, kind, number, seed)
        assert code in (0, -9)
        kills += code == -9
        flushed.update(dict.fromkeys(rows, seed))
        check(directory, flushed)
    assert kills >= EVENTS


def test_readers_of_a_running_writer_see_whole_tables(directory: RunDirectory, server: subprocess.Popen[str]) -> None:
    flushed = dict.fromkeys(ask(server, "never", 0, 0)[1], 0)
    assert server.stdin is not None
    rounds = 6
    server.stdin.write("".join(f"never 0 {seed}\n" for seed in range(1, rounds + 1)))
    server.stdin.close()
    reads, last = 0, 0
    while server.poll() is None:
        check(directory, flushed)
        rows = len(pd.read_parquet(directory.path(SEGMENTS)))
        assert rows >= last
        reads, last = reads + 1, rows
    assert server.returncode == 0 and reads > 1
    assert server.stdout is not None and [line.split()[0] for line in server.stdout] == ["0"] * rounds
