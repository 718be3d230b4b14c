"""Runs with one member per trial in the tests' cluster, with decisions that a test scripts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ray import tune

from raytune_rl import MetaAgentScheduler, roles
from raytune_rl.controller.policies import Rule
from raytune_rl.controller.policy import Situation
from raytune_rl.hyperparameters import STAY
from raytune_rl.mdp.action import SOURCES
from raytune_rl.records import Report, Step
from raytune_rl.tune.trials.scheduler import OneMemberPerTrialScheduler

LR = {"lr": roles.learning_rate(tune.loguniform(1e-3, 10.0))}
UP, DOWN = STAY + 1, STAY - 1  # times 1.6, times 0.6


@dataclass(frozen=True)
class Do:
    """One scripted action."""

    move: int = STAY
    source: str = "keep"


class Script(Rule):
    """Does what the script says for (member, segment), else nothing."""

    def __init__(self, script: Mapping[tuple[int, int], Do] | None = None) -> None:
        self.script = dict(script or {})
        self.closed = 0

    def choose(self, situation: Situation, rng: np.random.Generator) -> tuple[int, ...]:
        wanted = self.script.get((situation.member, situation.segment), Do())
        action = list(self._action.neutral)
        action[0] = wanted.move  # of the first hyperparameter
        action[self._action.names.index("source")] = SOURCES.index(wanted.source)  # type: ignore[arg-type]
        return tuple(action)

    def close(self) -> None:
        self.closed += 1


class Recording(MetaAgentScheduler):
    """Keeps the steps of its controller."""

    def build(self, state: Any) -> OneMemberPerTrialScheduler:
        core = super().build(state)
        self.steps: list[Step] = []
        core._record = self.steps.append
        return core

    @property
    def core(self) -> OneMemberPerTrialScheduler:
        assert self._core is not None
        return self._core

    def reports(self, member: int) -> list[Report]:
        return [report for step in self.steps for report in step.reports if report.member == member]


def fit(
    path: Path,
    trainable: Any,
    script: Mapping[tuple[int, int], Do] | None = None,
    *,
    lrs: tuple[float, ...] = (0.1, 1.0),
    iterations: int = 8,
    constants: Mapping[str, Any] | None = None,
    reuse_actors: bool | None = None,
    max_failures: int = 0,
    cpus: float = 1,
    checkpoints: tune.CheckpointConfig | None = None,
    **settings: Any,
) -> tuple[tune.ResultGrid, Recording]:
    """One trial per learning rate, in that order.

    Actors are reused for functions: a ``reset_config`` that keeps what has been trained, as in Ray's own example, would
    let a new trial begin with what the actor's last trial had.
    """
    if reuse_actors is None:
        reuse_actors = not isinstance(trainable, type)
    scheduler = Recording(**{"hyperparameters": LR, "agent": Script(script), "copy_every": 1, **settings})
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"CPU": cpus}),
        param_space={"lr": tune.grid_search(list(lrs)), **(constants or {})},
        tune_config=tune.TuneConfig(metric="total", mode="max", scheduler=scheduler, reuse_actors=reuse_actors),
        run_config=tune.RunConfig(
            name="run",
            storage_path=str(path),
            verbose=0,
            stop={"training_iteration": iterations},
            failure_config=tune.FailureConfig(max_failures=max_failures),
            checkpoint_config=checkpoints or tune.CheckpointConfig(),
        ),
    )
    return tuner.fit(), scheduler
