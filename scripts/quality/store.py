"""Runs methods on cases, and keeps what each of them gave: a file per method and case, there as a whole or not at all.

Results of the field belong to nobody; those of our rows lie in a directory that is named after the controller, so that
one controller's are never taken for another's, and the field need not run again for the next.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd
import torch

from quality.cases import group_of, task_of
from quality.harness import Plan, Result
from quality.methods import Row, rows
from quality.protocol import FIRST_SEED, SEGMENTS
from quality.statistics import Curves, judged
from raytune_rl.population.optimisers import OptimizerName
from raytune_rl.pretrained import Pretrained
from raytune_rl.worlds.delivery import Delivered

FIGURES = ("validation", "test", "accuracy")
"""Of a ``Result``, and of what it says of averages."""

SIDE_BY_SIDE = 160
"""Members that train in one program at the most; more runs of a method follow one after the other."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One method on one case, all seeds."""

    task: str
    optimizer: OptimizerName
    method: str
    members: int
    seeds: int
    controller: str | None
    path: Path

    @property
    def case(self) -> str:
        return f"{self.task}/{self.optimizer}"


def jobs(
    out: Path,
    cases: Sequence[tuple[str, OptimizerName]],
    methods: Mapping[str, Row],
    *,
    members: int,
    seeds: int,
    controller: str | None,
    ending: str = "npz",
) -> list[Job]:
    """All that is to be done or has been done, case by case; ``ending``: of the files, which says what is in them."""
    ours = any(row.kind in ("structure", "ours") for row in methods.values())
    mine = fingerprint(controller) if ours else ""
    found = []
    for task, optimizer in cases:
        for name, row in methods.items():
            owner = "field" if row.kind in ("simple", "peer") else f"controller-{mine}"
            file = name.replace(",", "").replace("+", "and").replace(" ", "_")
            if row.delivers:  # else a result that is only of checkpoints, from before there were averages, would do
                file += "-delivered"
            place = out / "runs" / f"{members}x{SEGMENTS}-{seeds}" / owner / f"{task}-{optimizer}"
            job = Job(
                task=task,
                optimizer=optimizer,
                method=name,
                members=members,
                seeds=seeds,
                controller=controller,
                path=place / f"{file}.{ending}",
            )
            found.append(job)
    return found


@functools.cache
def fingerprint(directory: str | None) -> str:
    """Of a controller: its record and its weights."""
    controller = Pretrained(directory)
    digest = hashlib.sha256(json.dumps(controller.record, sort_keys=True).encode())
    for name in sorted(controller.weights):
        digest.update(np.ascontiguousarray(controller.weights[name]).tobytes())
    return digest.hexdigest()[:12]


def run(open_jobs: Sequence[Job], play: Callable[[Job], None], *, workers: int) -> Iterator[Job]:
    """Do them by ``play``, and give each when its file is written. Ends its processes when it is closed."""
    if workers == 1:
        for job in open_jobs:
            play(job)
            yield job
        return
    # Ray, torch and Optuna bring threads of their own, so the processes are not forked.
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_end_with_parent)
    try:
        waiting = {pool.submit(play, job): job for job in open_jobs}
        for future in as_completed(waiting):
            future.result()
            yield waiting[future]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    """In a process of its own: whoever kills the benchmark leaves nobody behind who trains on."""
    parent = parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def play(job: Job) -> None:
    """All runs of a job, kept in its file."""
    torch.set_num_threads(1)
    row = _rows(job.controller)[job.method]
    task = task_of(job.task, job.optimizer)
    at_once = max(1, SIDE_BY_SIDE // row.side_by_side(job.members))
    parts = [
        row.method(task, Plan(members=job.members, seeds=min(at_once, job.seeds - done), seed=FIRST_SEED + done))
        for done in range(0, job.seeds, at_once)
    ]
    keep(job.path, Result.joined(parts))


_rows = functools.cache(rows)


@contextmanager
def as_a_whole(path: Path) -> Iterator[IO[bytes]]:
    """A file to write beside it, which is renamed at the end: whoever is killed leaves a file as a whole or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".part", delete=False) as file:
        yield file
    os.replace(file.name, path)


def keep(path: Path, result: Result) -> None:
    """For ``read``."""
    arrays = {name: getattr(result, name) for name in FIGURES}
    if result.delivered is not None:
        arrays |= {f"delivered_{name}": getattr(result.delivered, name) for name in FIGURES}
    with as_a_whole(path) as file:
        np.savez_compressed(file, **arrays)


def read(path: Path) -> Result:
    """What ``keep`` has written."""
    with np.load(path, allow_pickle=False) as data:
        delivered = None
        if "delivered_test" in data:
            delivered = Delivered(**{name: data[f"delivered_{name}"] for name in FIGURES})
        return Result(**{name: data[name] for name in FIGURES}, delivered=delivered)


def collect(done: Sequence[Job]) -> tuple[pd.DataFrame, Curves]:
    """What the jobs gave: a row per case, method and seed (columns ``case, group, method, seed, loss, accuracy``), and
    the curves."""
    curves: dict[str, dict[str, np.ndarray]] = {}
    found = []
    for job in done:
        result = read(job.path)
        curve, accuracy = judged(result, "test"), judged(result, "accuracy")[:, -1]
        curves.setdefault(job.case, {})[job.method] = curve
        found += [
            {
                "case": job.case,
                "group": group_of(job.task),
                "method": job.method,
                "seed": seed,
                "loss": loss,
                "accuracy": share,
            }
            for seed, (loss, share) in enumerate(zip(curve[:, -1].tolist(), accuracy.tolist(), strict=True))
        ]
    return pd.DataFrame(found), curves


def curve_table(curves: Curves) -> pd.DataFrame:
    """For Parquet: quartiles over seeds after each member-segment."""
    parts = []
    for case, by_method in curves.items():
        for method, values in by_method.items():
            low, middle, high = np.quantile(values, [0.25, 0.5, 0.75], axis=0)
            spent = np.arange(1, values.shape[1] + 1)
            columns = {"spent": spent, "lower": low, "median": middle, "upper": high, "mean": values.mean(axis=0)}
            parts.append(pd.DataFrame({"case": case, "method": method, **columns}))
    return pd.concat(parts, ignore_index=True)
