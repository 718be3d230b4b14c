"""The methods whose final populations are compared as ensembles, and how their members' predictions are had.

Every method trains 8 members of 20 segments in all, and all 8 are candidates as they stand at the end.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import pandas as pd
import torch

from quality.cases import group_of, task_of
from quality.harness import Method, Plan, Result, Starts
from quality.judging import Population, disturbed, judge
from quality.methods import Row
from quality.populations import controlled, pbt, static
from quality.protocol import FIRST_SEED
from quality.starts import default, grid, narrow_grid, three_rates, uniform
from quality.store import SIDE_BY_SIDE, Job, as_a_whole
from raytune_rl.controller.tokens import TokenPolicy, initial_weights
from raytune_rl.population.predictions import Sample
from raytune_rl.population.splits import Split
from raytune_rl.pretrained import Pretrained
from raytune_rl.worlds.cohort import Cohort
from raytune_rl.worlds.task import WorldTask

TEAM: Final = "ours, ensemble"
"""The row of ours that is ranked."""
ALONE: Final = "ours, single objective"
"""The same controller with the other objective, whose best single member ours is held against."""
SECOND_HALF: Final = 500
"""Added to the seeds of a method's second half, whose initial weights and batches are to be others."""


def team_rows(directory: str | None = None) -> Mapping[str, Row]:
    """All methods, in the table's order; ``directory``: of a controller other than the shipped one."""
    fresh = initial_weights(0)
    return {
        "random + cosine": Row(kind="simple", method=static(uniform, cosine=True)),
        "hand default + cosine": Row(kind="simple", method=static(default, cosine=True)),
        "default, 3 rates + cosine": Row(kind="simple", method=static(three_rates, cosine=True)),
        "narrow grid + cosine": Row(kind="simple", method=static(narrow_grid, cosine=True)),
        "wide grid + cosine": Row(kind="simple", method=static(grid, cosine=True)),
        "hyper-deep": Row(kind="peer", method=hyper_deep),
        "PBT/1": Row(kind="peer", method=pbt(uniform, interval=1, cosine=False)),
        "PBT/1 from grid": Row(kind="peer", method=pbt(grid, interval=1, cosine=False)),
        "controller, untrained": Row(kind="structure", method=controlled(lambda: TokenPolicy(fresh), ensemble=True)),
        ALONE: Row(kind="ours", method=controlled(lambda: Pretrained(directory))),
        TEAM: Row(kind="ours", method=controlled(lambda: Pretrained(directory), ensemble=True)),
    }


def hyper_deep(task: WorldTask, plan: Plan) -> Result:
    """Hyper-deep ensembles (Wenzel et al. 2020, algorithm 1) within one budget: half of the members are random
    configurations under a cosine, the other half repeats the best of them with other initial weights and batches, and
    the ensemble chooses among all. (The paper spends far more: a search of 50 configurations, and repeats of each that
    its ensemble has chosen.)"""
    half = plan.members // 2
    first, second = (
        replace(plan, members=half),
        replace(plan, members=plan.members - half, seed=plan.seed + SECOND_HALF),
    )
    drawn = [uniform(task, half, rng) for rng in first.generators()]
    searched = static(_given(drawn), cosine=True)(task, first)
    winners = searched.validation[:, -half:].argmin(axis=1)
    best = [np.tile(positions[winner], (second.members, 1)) for positions, winner in zip(drawn, winners, strict=True)]
    repeated = static(_given(best), cosine=True)(task, second)
    return Result(
        validation=np.concatenate([searched.validation, repeated.validation], axis=1),
        test=np.concatenate([searched.test, repeated.test], axis=1),
        accuracy=np.concatenate([searched.accuracy, repeated.accuracy], axis=1),
    )


def _given(positions: Sequence[np.ndarray]) -> Starts:
    """Starts that are known: those of one run after the other."""
    remaining: Iterator[np.ndarray] = iter(positions)
    return lambda task, count, rng: next(remaining)


def populations(method: Method, task: WorldTask, plan: Plan) -> list[Population]:
    """Train, and ask everybody at the end: one per run."""
    seen = _Seen()
    method(task, replace(plan, watch=seen))
    return seen.populations(task, plan.seeds)


class _Seen:
    """The cohorts that a method trains, and the best validation loss of each member so far."""

    def __init__(self) -> None:
        self._cohorts: list[Cohort] = []
        self._best: list[np.ndarray] = []

    def __call__(self, cohort: Cohort, losses: np.ndarray) -> None:
        if not self._cohorts or self._cohorts[-1] is not cohort:
            self._cohorts.append(cohort)
            self._best.append(losses)
        self._best[-1] = np.minimum(self._best[-1], losses)

    def populations(self, task: WorldTask, seeds: int) -> list[Population]:
        test = task.splits.test
        assert test is not None
        splits = {name: Split(inputs=inputs, targets=test.targets) for name, inputs in disturbed(test.inputs).items()}
        validation = self._say(task, task.splits.validation, seeds)
        final = {name: self._say(task, split, seeds) for name, split in splits.items()}
        for cohort in self._cohorts:
            everybody = range(len(cohort))
            cohort.take(everybody, everybody, [True] * len(cohort))  # back to the best checkpoint of each
        best = {name: self._say(task, split, seeds) for name, split in splits.items()}
        winners = np.concatenate(self._best, axis=1).argmin(axis=1)
        return [
            Population(
                validation=validation[run],
                test={name: values[run] for name, values in final.items()},
                single={name: values[run, winner] for name, values in best.items()},
            )
            for run, winner in enumerate(winners)
        ]

    def _say(self, task: WorldTask, split: Split, seeds: int) -> np.ndarray:
        """Predictions (seeds, members, rows, outputs)."""
        asked = Sample.of(task.loss, split.targets, limit=len(split))
        parts = [asked.predictions(cohort.outputs(split)) for cohort in self._cohorts]
        return np.concatenate([part.reshape(seeds, -1, *part.shape[1:]) for part in parts], axis=1)


def play(job: Job) -> None:
    """All runs of a job, kept in its file: ``judge``'s table, with the column ``seed``."""
    torch.set_num_threads(1)
    row = _rows(job.controller)[job.method]
    task = task_of(job.task, job.optimizer)
    at_once = max(1, SIDE_BY_SIDE // row.side_by_side(job.members))
    found: list[pd.DataFrame] = []
    for done in range(0, job.seeds, at_once):
        plan = Plan(members=job.members, seeds=min(at_once, job.seeds - done), seed=FIRST_SEED + done)
        found += [judged(population, task) for population in populations(row.method, task, plan)]
    table = pd.concat([part.assign(seed=seed) for seed, part in enumerate(found)], ignore_index=True)
    with as_a_whole(job.path) as file:
        table.to_parquet(file)


def judged(population: Population, task: WorldTask) -> pd.DataFrame:
    """``judge``, on the task's splits."""
    assert task.splits.test is not None
    asked = [
        Sample.of(task.loss, split.targets, limit=len(split)) for split in (task.splits.validation, task.splits.test)
    ]
    validation, test = (sample.evaluation_targets for sample in asked)
    return judge(population, validation.targets, test.targets, validation.kind)


def collect(done: Sequence[Job]) -> pd.DataFrame:
    """``play``'s tables of all jobs, with the columns ``case``, ``group`` and ``method``."""
    parts = [
        pd.read_parquet(job.path).assign(case=job.case, group=group_of(job.task), method=job.method) for job in done
    ]
    return pd.concat(parts, ignore_index=True)


_rows = functools.cache(team_rows)
