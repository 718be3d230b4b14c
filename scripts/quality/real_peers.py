"""The peers as their users run them: Ray Tune from ``Tuner.fit()`` on, training the benchmark's tasks in plain torch.

What decides in the packed world is the libraries' own code as well (``populations.py``, ``searches.py``), but who
trains when, who copies whom, and what counts as a segment is restated there. This is the other side of that comparison.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray import tune
from ray.tune.schedulers import ASHAScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.schedulers.hb_bohb import HyperBandForBOHB
from ray.tune.schedulers.pb2 import PB2
from ray.tune.search import BasicVariantGenerator, ConcurrencyLimiter, SearchAlgorithm, Searcher
from ray.tune.search.bohb import TuneBOHB
from ray.tune.search.optuna import OptunaSearch

from quality.harness import WORST, Result
from quality.populations import PB2_INTERVAL, score, tune_domains, within
from quality.protocol import MEMBERS, SEGMENTS
from quality.searches import REDUCTION
from raytune_rl.population.optimisers import make_optimizer
from raytune_rl.worlds.real import evaluation_task
from raytune_rl.worlds.task import WorldTask

BUDGET = MEMBERS * SEGMENTS
LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "cross_entropy": torch.nn.functional.cross_entropy,
    "mse": torch.nn.functional.mse_loss,
}
_task = functools.lru_cache(maxsize=2)(evaluation_task)


class Member(tune.Trainable):
    """One member: a step of Tune is a segment. Its configuration holds the hyperparameters, by name, or, if
    ``positions`` is true, positions of them in the search space, and the ``task``, ``optimizer`` and ``seed``."""

    def setup(self, config: dict[str, Any]) -> None:
        torch.set_num_threads(1)
        self._task = _task(config["task"], config["optimizer"])
        self._begin(config)

    def _begin(self, config: dict[str, Any]) -> None:
        task = self._task
        # the trial's name differs between trials and not between runs of one seed
        number = int(self.trial_id.split("_")[-1]) if "_" in self.trial_id else 0
        torch.manual_seed(int(config["seed"]) * 1000 + number)
        self._network = task.network()
        self._optimizer = make_optimizer(
            task.optimizer, self._network.parameters(), learning_rate=1.0, weight_decay=0.0, momentum=0.9
        )
        self._order = torch.empty(0, dtype=torch.int64)
        self._best = WORST
        self._set(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config)
        return True

    def _set(self, config: dict[str, Any]) -> None:
        space = self._task.space
        if config["positions"]:
            values = space.decode([float(config[name]) for name in space.names])
        else:
            values = {name: config[name] for name in space.names}
        for group in self._optimizer.param_groups:
            group["lr"], group["weight_decay"] = values["learning_rate"], values["weight_decay"]
        for module in self._network.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = float(values["dropout"])
        self._smoothing = float(values.get("label_smoothing", 0.0))

    def step(self) -> dict[str, float]:
        task, train = self._task, self._task.splits.train
        size = min(task.batch_size, len(train))
        extra = {"label_smoothing": self._smoothing} if task.loss == "cross_entropy" else {}
        self._network.train()
        for _ in range(task.segment_length):
            if len(self._order) < size:
                self._order = torch.cat([self._order, torch.randperm(len(train))])
            rows, self._order = self._order[:size], self._order[size:]
            self._optimizer.zero_grad()
            LOSSES[task.loss](self._network(train.inputs[rows]), train.targets[rows], **extra).backward()
            self._optimizer.step()
        validation, _ = self._measure("validation")
        test, accuracy = self._measure("test")
        self._best = min(self._best, validation)
        told = float(score(np.array(validation)))
        return {"loss": validation, "best": self._best, "score": told, "test": test, "accuracy": accuracy}

    @torch.no_grad()
    def _measure(self, name: str) -> tuple[float, float]:
        split = getattr(self._task.splits, name)
        self._network.eval()
        outputs = self._network(split.inputs)
        loss = float(LOSSES[self._task.loss](outputs, split.targets))
        right = float((outputs.argmax(1) == split.targets).float().mean()) if self._task.loss != "mse" else float("nan")
        return (min(loss, WORST) if np.isfinite(loss) else WORST), right

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        state = {"network": self._network.state_dict(), "optimizer": self._optimizer.state_dict(), "best": self._best}
        torch.save(state | {"order": self._order}, Path(checkpoint_dir) / "member.pt")

    def load_checkpoint(self, checkpoint: str) -> None:
        state = torch.load(Path(checkpoint) / "member.pt", weights_only=True)
        self._network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._best, self._order = state["best"], state["order"]
        self._set(self.config)  # the optimiser's settings came with its state


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
        concurrent: that run at the same time.
    """

    restated: str
    positions: bool = True
    scheduler: Callable[[WorldTask], TrialScheduler | None] = lambda task: None
    search: Callable[[WorldTask, int], SearchAlgorithm | Searcher | None] = lambda task, seed: None
    trials: int = MEMBERS
    concurrent: int = MEMBERS


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
                synch=True,
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
                synch=True,
            ),
        ),
        "ASHAScheduler": Peer(
            restated="ASHA",
            scheduler=lambda task: ASHAScheduler(
                **time, metric="loss", mode="min", max_t=SEGMENTS, reduction_factor=REDUCTION
            ),
            search=lambda task, seed: BasicVariantGenerator(max_concurrent=MEMBERS, random_state=seed),
            trials=BUDGET,
        ),
        "OptunaSearch": Peer(
            restated="TPE",
            search=lambda task, seed: ConcurrencyLimiter(_optuna(task, seed), max_concurrent=1),
            concurrent=1,
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


def run(peer: Peer, name: str, optimizer: Any, seed: int) -> Result:
    """One run of a real peer, through Tune. Ray is running."""
    task = _task(name, optimizer)
    domains = {n: tune.uniform(0.0, 1.0) for n in task.space.names} if peer.positions else tune_domains(task.space)
    fixed = {"task": name, "optimizer": optimizer, "seed": seed, "positions": peer.positions}
    np.random.seed(seed)
    reports = Reports()
    with tempfile.TemporaryDirectory(prefix="bench_peers_") as folder:
        tuner = tune.Tuner(
            tune.with_resources(Member, {"cpu": (os.cpu_count() or 1) / peer.concurrent / 1.01}),
            param_space=domains | fixed,
            tune_config=tune.TuneConfig(
                metric=None if peer.scheduler(task) is not None else "best",
                mode=None if peer.scheduler(task) is not None else "min",
                scheduler=peer.scheduler(task),
                search_alg=peer.search(task, seed),
                num_samples=peer.trials,
                max_concurrent_trials=None,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(storage_path=folder, stop=Spent(), callbacks=[reports], verbose=0),
        )
        tuner.fit()
    return reports.result()
