"""The peers as their users run them: Ray Tune from ``Tuner.fit()`` on, training the benchmark's tasks in plain torch.

What decides in the packed world is the libraries' own code as well (``populations.py``, ``searches.py``), but who
trains when, who copies whom, and what counts as a segment is restated there. This is the other side of that comparison.
PBT and PB2 run as Ray has them by default, asynchronously: members need not wait for each other.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from ray import tune
from ray.tune.schedulers import ASHAScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.schedulers.hb_bohb import HyperBandForBOHB
from ray.tune.schedulers.pb2 import PB2
from ray.tune.search import BasicVariantGenerator, ConcurrencyLimiter, SearchAlgorithm, Searcher
from ray.tune.search.bohb import TuneBOHB
from ray.tune.search.optuna import OptunaSearch

from quality.harness import Result
from quality.populations import PB2_INTERVAL, tune_domains, within
from quality.protocol import MEMBERS, SEGMENTS
from quality.real_member import Member
from quality.searches import REDUCTION
from raytune_rl.worlds.task import WorldTask

BUDGET = MEMBERS * SEGMENTS


class Reports(tune.Callback):
    """Every result, in the order in which Tune saw them."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, float, float]] = []

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self.rows.append((result["loss"], result["test"], result["accuracy"]))

    def result(self) -> Result:
        """As one run; cut after the budget."""
        columns = np.array(self.rows[:BUDGET], dtype=float).T
        short = BUDGET - columns.shape[1]
        validation, test = (np.pad(part, (0, short), mode="edge")[None] for part in columns[:2])
        return Result(validation=validation, test=test, accuracy=np.pad(columns[2], (0, short), mode="edge")[None])


class Spent(tune.Stopper):
    """Ends trials at ``SEGMENTS``, and everything when the budget is spent."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        self._count += 1
        return bool(result["training_iteration"] >= SEGMENTS)

    def stop_all(self) -> bool:
        return self._count >= BUDGET


@dataclass(frozen=True, kw_only=True)
class Peer:
    """How one is set up.

    Attributes:
        restated: the row that it is compared with.
        positions: whether it works on positions.
        scheduler, search: made anew for every run, from the task and the seed.
        trials: begun at the most.
        slots: trials that run at the same time. ASHA's decisions depend on it; of the others any number gives the same.
    """

    restated: str
    positions: bool = True
    scheduler: Callable[[WorldTask], TrialScheduler | None] = lambda task: None
    search: Callable[[WorldTask, int], SearchAlgorithm | Searcher | None] = lambda task, seed: None
    trials: int = MEMBERS
    slots: int = 2


def peers() -> dict[str, Peer]:
    """All that are compared, by what they are called in Ray."""
    time = {"time_attr": "training_iteration"}
    return {
        "PopulationBasedTraining": Peer(
            restated="PBT/2",
            positions=False,
            scheduler=lambda task: PopulationBasedTraining(
                **time,
                metric="loss",
                mode="min",
                perturbation_interval=2,
                hyperparam_mutations=tune_domains(task.space),
                custom_explore_fn=_within(task),
            ),
        ),
        "PB2": Peer(
            restated="PB2",
            scheduler=lambda task: PB2(
                **time,
                metric="score",
                mode="min",
                perturbation_interval=PB2_INTERVAL,
                hyperparam_bounds={name: [0.0, 1.0] for name in task.space.names},
            ),
        ),
        "ASHAScheduler": Peer(
            restated="ASHA",
            scheduler=lambda task: ASHAScheduler(
                **time, metric="loss", mode="min", max_t=SEGMENTS, reduction_factor=REDUCTION
            ),
            search=lambda task, seed: BasicVariantGenerator(max_concurrent=MEMBERS, random_state=seed),
            trials=BUDGET,
            slots=MEMBERS,
        ),
        "OptunaSearch": Peer(
            restated="TPE",
            search=lambda task, seed: ConcurrencyLimiter(_optuna(task, seed), max_concurrent=1),
            slots=1,
        ),
        "TuneBOHB": Peer(
            restated="BOHB",
            scheduler=lambda task: HyperBandForBOHB(
                **time, metric="loss", mode="min", max_t=SEGMENTS, reduction_factor=REDUCTION
            ),
            search=lambda task, seed: TuneBOHB(metric="loss", mode="min", seed=seed, max_concurrent=MEMBERS),
            trials=25,
        ),
    }


def _within(task: WorldTask) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Keeps the hyperparameters within their bounds and the rest of the configuration as it is."""
    inside, names = within(task.space), task.space.names
    return lambda config: config | inside({name: config[name] for name in names})


def _optuna(task: WorldTask, seed: int) -> OptunaSearch:
    import optuna

    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=MEMBERS * 3 // 8)
    return OptunaSearch(metric="best", mode="min", sampler=sampler)


def run(peer: Peer, task: WorldTask, seed: int) -> Result:
    """One run of a real peer, through Tune. Ray is running."""
    names = task.space.names
    domains = {name: tune.uniform(0.0, 1.0) for name in names} if peer.positions else tune_domains(task.space)
    scheduler = peer.scheduler(task)
    np.random.seed(seed)
    random.seed(seed)
    reports = Reports()
    share = {"cpu": (os.cpu_count() or 1) / (peer.slots + 0.01)}
    with tempfile.TemporaryDirectory(prefix="bench_peers_") as folder:
        tune.Tuner(
            tune.with_resources(tune.with_parameters(Member, task=task, positions=peer.positions), share),
            param_space=domains | {"seed": seed},
            tune_config=tune.TuneConfig(
                metric="best" if scheduler is None else None,
                mode="min" if scheduler is None else None,
                scheduler=scheduler,
                search_alg=peer.search(task, seed),
                num_samples=peer.trials,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(storage_path=folder, stop=Spent(), callbacks=[reports], verbose=0),
        ).fit()
    return reports.result()
