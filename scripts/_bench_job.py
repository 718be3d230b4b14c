"""One measurement of ``scripts/bench_overhead``, in a fresh process: what is trained, and by which tool.

    python scripts/_bench_job.py '{"kind": "pbt", ...}'      (the jobs are made by scripts/bench_overhead)

The candidates write down when each training step began and how long it took, into ``$BENCH_STEPS``.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from ray import tune
from ray.tune.examples.pbt_example import PBTBenchmarkExample

if TYPE_CHECKING:
    from torch import nn

    from raytune_rl import Experiment

Job: TypeAlias = dict[str, Any]
Row: TypeAlias = dict[str, Any]
Arrays: TypeAlias = tuple[np.ndarray, np.ndarray]

TOY_GOAL = 200.0
"""The accuracy at which ``PBTBenchmarkExample`` says that it is done."""


def note_step(began: float) -> None:
    """Write down a step that has just ended. One file per process, so that nobody waits for anybody."""
    with open(f"{os.environ['BENCH_STEPS']}/{os.getpid()}", "a") as steps:
        steps.write(f"{began!r} {time.time() - began!r}\n")


def pause(seconds: float) -> None:
    """Sleep; not at all for 0, which would still hand the core to another process."""
    if seconds:
        time.sleep(seconds)


class Sleeper(tune.Trainable):
    """An ordinary class Trainable whose step sleeps for ``seconds``."""

    seconds = 0.05

    def setup(self, config: dict[str, Any]) -> None:
        self.lr, self.score = config["lr"], 0.0

    def step(self) -> dict[str, float]:
        began = time.time()
        pause(self.seconds)
        self.score += 1.0 - abs(np.log10(self.lr) + 2.0) / 4.0
        note_step(began)
        return {"score": self.score}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, float]:
        return {"score": self.score}

    def load_checkpoint(self, checkpoint: dict[str, float]) -> None:
        self.score = checkpoint["score"]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.lr = new_config["lr"]
        return True


class Sprinter(Sleeper):
    """A Trainable whose step takes no time worth mentioning."""

    seconds = 0.0


class TorchSleeper(Sleeper):
    """What the sleeping torch task trains, as a class Trainable, for tools that need one."""

    def setup(self, config: dict[str, Any]) -> None:
        import torch

        torch.set_num_threads(1)
        (inputs, targets), _, _ = narrow_data()
        self.inputs, self.targets = torch.from_numpy(inputs), torch.from_numpy(targets)
        self.network, self.loss = sleeping_network(), _squared_error()
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=config["lr"])

    def step(self) -> dict[str, float]:
        import torch

        self.network.train()
        self.optimizer.zero_grad()
        self.loss(self.network(self.inputs[:8]), self.targets[:8]).backward()
        self.optimizer.step()
        self.network.eval()
        with torch.no_grad():
            return {"score": -float(self.loss(self.network(self.inputs), self.targets))}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.network.load_state_dict(checkpoint["network"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        for group in self.optimizer.param_groups:
            group["lr"] = new_config["lr"]
        return True


def _network(width: int, seconds: float) -> nn.Module:
    import torch

    class Network(torch.nn.Module):
        """One linear layer that sleeps in each training step, and not in validation."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(width, width)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            began = time.time()
            outputs: torch.Tensor = self.layer(inputs)
            if self.training:
                pause(seconds)
                note_step(began)
            return outputs

    return Network()


def sleeping_network() -> nn.Module:
    return _network(8, Sleeper.seconds)


def instant_network() -> nn.Module:
    return _network(8, 0.0)


def plain_network() -> nn.Module:
    """Nothing in its forward pass keeps members from training as one program."""
    from torch import nn

    return nn.Linear(8, 8)


def megabyte_network() -> nn.Module:
    return _network(512, 0.0)  # 512 x 512 weights of 4 bytes


def _data(width: int) -> tuple[Arrays, Arrays, Arrays]:
    inputs = np.random.default_rng(0).normal(size=(16, width)).astype(np.float32)
    return (inputs, inputs), (inputs, inputs), (inputs, inputs)


def narrow_data() -> tuple[Arrays, Arrays, Arrays]:
    return _data(8)


def wide_data() -> tuple[Arrays, Arrays, Arrays]:
    return _data(512)


def run_tuner(
    job: Job, trainable: type[tune.Trainable], *, scheduler: Any, metric: str, stop: Any, reuse: bool
) -> None:
    """A Tuner as in Ray's documentation, on an embedded Ray with as many CPUs as there are slots."""
    import ray

    ray.init(
        address="local", num_cpus=job["slots"], include_dashboard=False, log_to_driver=False, logging_level="ERROR"
    )
    tuner = tune.Tuner(
        trainable,
        param_space={"lr": 0.0001},
        run_config=tune.RunConfig(name="bench", storage_path=job["out"], verbose=0, stop=stop),
        tune_config=tune.TuneConfig(
            metric=metric, mode="max", num_samples=job["population"], reuse_actors=reuse, scheduler=scheduler
        ),
    )
    errors = tuner.fit().errors
    ray.shutdown()  # as raytune_rl does within its own measurement
    if errors:
        raise RuntimeError(f"{len(errors)} trials failed; the first: {errors[0]}")


def measure_pbt(job: Job) -> Row:
    scheduler = tune.schedulers.PopulationBasedTraining(
        time_attr="training_iteration", perturbation_interval=1, hyperparam_mutations={"lr": tune.loguniform(1e-4, 1.0)}
    )
    stop = {"training_iteration": job["segments"]}
    trainable = TorchSleeper if job["torch"] else Sleeper
    run_tuner(job, trainable, scheduler=scheduler, metric="score", stop=stop, reuse=job["reuse"])
    return {}


def measure_ours(job: Job) -> Row:
    from raytune_rl.runs import runner

    summary = runner.run(experiment_for(job), out=job["out"]).summary
    timing, reports = summary["timing"], summary["counts"]["segments"]
    told = {name: timing[name] for name in ("decision_ms_p50", "decision_ms_p99", "overhead_ratio")}
    return {**told, "reports": reports, "reports_per_s": reports / timing["wall_s"]}


def experiment_for(job: Job) -> Experiment:
    """The experiment of one measurement; the agent learns, or is the shipped controller."""
    from raytune_rl import Agent, Experiment, Pretrained, TorchTask, roles

    candidates: dict[str, Callable[[], Any]] = {
        "sleeping torch task": lambda: TorchTask(sleeping_network, narrow_data, loss=_squared_error(), batch_size=8),
        "instant torch task": lambda: TorchTask(instant_network, narrow_data, loss=_squared_error(), batch_size=8),
        "plain torch task": lambda: TorchTask(plain_network, narrow_data, loss=_squared_error(), batch_size=8),
        "megabyte torch task": lambda: TorchTask(megabyte_network, wide_data, loss=_squared_error(), batch_size=8),
        "sleeping Trainable": lambda: Sleeper,
        "instant Trainable": lambda: Sprinter,
    }
    torch_task = job["candidate"].endswith("torch task")
    trials = job["population"] // job["members_per_trial"]
    return Experiment(
        candidate=candidates[job["candidate"]](),
        hyperparameters={"lr": roles.learning_rate(tune.loguniform(1e-4, 1.0))},
        metric="validation_loss" if torch_task else "score",
        mode="min" if torch_task else "max",
        population=job["population"],
        members_per_trial=job["members_per_trial"],
        resources={"CPU": job["slots"] / trials},
        segments=job["segments"],
        segment_length=1,
        checkpoint_every=job["checkpoint_every"],
        agent=Pretrained() if job.get("shipped") else Agent(),
        callbacks=None,  # Tune's automatic loggers are off for the others, too
    )


def _squared_error() -> nn.Module:
    from torch import nn

    return nn.MSELoss()


class FirstOver(tune.Stopper):
    """Ends the whole experiment when the first member passes the goal, or at the limit."""

    def __init__(self, goal: float, *, iterations: int, seconds: float) -> None:
        self.goal, self.limit, self.deadline = goal, iterations, time.monotonic() + seconds
        self.iterations = 0
        self.finished = False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        iteration = result["training_iteration"]
        if not self.finished:
            self.finished = result["mean_accuracy"] > self.goal
            self.iterations = iteration if self.finished else max(self.iterations, iteration)
        return False

    def stop_all(self) -> bool:
        return self.finished or self.iterations >= self.limit or time.monotonic() > self.deadline


def measure_toy(job: Job) -> Row:
    """Ray's example with its own settings; only the scheduler differs. The example's own noise cannot be seeded."""
    random.seed(job["seed"])
    np.random.seed(job["seed"])
    stopper = FirstOver(TOY_GOAL, **job["limit"])
    scheduler = toy_scheduler(job["tool"], job["seed"])
    run_tuner(job, PBTBenchmarkExample, scheduler=scheduler, metric="mean_accuracy", stop=stopper, reuse=True)
    return {"iterations": stopper.iterations, "finished": stopper.finished}


def toy_scheduler(name: str, seed: int) -> Any:
    if name == "Ray PBT":
        return tune.schedulers.PopulationBasedTraining(
            time_attr="training_iteration",
            perturbation_interval=5,
            hyperparam_mutations={"lr": lambda: random.uniform(0.0001, 0.02)},
        )
    if name == "Ray PB2":
        from ray.tune.schedulers.pb2 import PB2

        return PB2(time_attr="training_iteration", perturbation_interval=5, hyperparam_bounds={"lr": [0.0001, 0.02]})
    from raytune_rl import Agent, MetaAgentScheduler, Pretrained, roles

    return MetaAgentScheduler(
        hyperparameters={"lr": roles.learning_rate(tune.loguniform(1e-4, 2e-2))},
        agent=Agent() if name == "raytune_rl, learning PPO" else Pretrained(),
        segment_length=5,
        seed=seed,
    )


MEASUREMENTS: dict[str, Callable[[Job], Row]] = {"pbt": measure_pbt, "ours": measure_ours, "toy": measure_toy}


def main() -> None:
    job = json.loads(sys.argv[1])
    row = MEASUREMENTS[job["kind"]](job)
    Path(job["result"]).write_text(json.dumps({**row, "end": time.time()}))


if __name__ == "__main__":
    main()
