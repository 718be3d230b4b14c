"""Runs one of Ray's shipped PBT examples, unchanged but for its scheduler, or restores it. A script, killed by a test.

Usage: ``python example_driver.py EXAMPLE run|restore [--smoke-test]`` with ``HOME`` and ``RAY_ADDRESS=local`` set, and
``DIES_AFTER=N`` for a driver that is killed (by SIGKILL, from itself) when its scheduler has written its state N times.
"""

from __future__ import annotations

import json
import logging
import os
import runpy
import signal
import sys
from pathlib import Path
from typing import Any

import ray.tune.schedulers
import ray.tune.schedulers.pb2
from ray import tune

from raytune_rl import PBT, MetaAgentScheduler, roles
from raytune_rl.tune.storage import StateStore
from raytune_rl.tune.trials import state

NAMES = {
    "pbt_example": "pbt_class_api_example",
    "pbt_function": "pbt_function_api_example",
    "pb2_example": "pbt_test",
}
SEGMENTS = {"pbt_example": 80, "pbt_function": 20, "pb2_example": 6}


def scheduler(example: str) -> MetaAgentScheduler:
    return MetaAgentScheduler(
        hyperparameters={"lr": roles.learning_rate(tune.loguniform(1e-4, 2e-2)), "some_other_factor": [1, 2]},
        agent=PBT(),
        segment_length=1 if example == "pbt_example" else 5,
        segments=SEGMENTS[example],
        copy_every=2,
    )


def run(example: str, arguments: list[str]) -> None:
    def exchanged(**_: Any) -> MetaAgentScheduler:
        return scheduler(example)

    ray.tune.schedulers.PopulationBasedTraining = exchanged
    ray.tune.schedulers.pb2.PB2 = exchanged
    sys.argv = [example, *arguments]
    runpy.run_module(f"ray.tune.examples.{example}", run_name="__main__")


def restore(example: str) -> None:
    from ray.tune.examples.pbt_example import PBTBenchmarkExample
    from ray.tune.examples.pbt_function import pbt_function

    trainable = PBTBenchmarkExample if example == "pbt_example" else pbt_function
    path = Path.home() / "ray_results" / NAMES[example]
    results = tune.Tuner.restore(str(path), trainable).fit()
    print(
        "RESULTS", json.dumps([[str(r.error or ""), r.metrics["training_iteration"], r.config["lr"]] for r in results])
    )


def die_after(saves: int) -> None:
    """Nothing that watches from outside could be sure to catch so short a run alive.

    Each decision is saved, however soon after the one before: a fast machine is done in fewer saves by the clock.
    """
    save, left = StateStore.save, [saves]
    state.CHANGED_PERIOD, state.QUIET_PERIOD, state.SHARE = 0.0, 0.0, 0

    def counted(self: StateStore, *arguments: Any, **keywords: Any) -> Any:
        saved = save(self, *arguments, **keywords)
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return saved

    StateStore.save = counted  # type: ignore[method-assign]


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stdout)
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    name, what, *rest = sys.argv[1:]
    if "DIES_AFTER" in os.environ:
        die_after(int(os.environ["DIES_AFTER"]))
    if what == "run":
        run(name, rest)
    else:
        restore(name)
