"""An experiment that needs neither torch nor time: losses that fall fastest at a learning rate of 0.01.

Used as an experiment file by the command-line tests and imported by the others.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ray import tune

from raytune_rl import Agent, Experiment, roles
from raytune_rl.population.candidate import MemberContext, SegmentResult, State
from raytune_rl.records import Value


class PaperMember:
    def __init__(self, task: PaperTask, context: MemberContext, hyperparameters: Mapping[str, Value]) -> None:
        self.task, self.index = task, context.member
        self.values = dict(hyperparameters)
        self.rng = np.random.default_rng(context.seed)
        self.loss, self.steps = 2.0, 0

    def apply(self, hyperparameters: Mapping[str, Value]) -> Mapping[str, Value]:
        self.values = dict(hyperparameters)
        return self.values

    def train(self, length: int) -> SegmentResult:
        self.task.misbehave(self.index, self.steps)
        time.sleep(self.task.seconds * length)
        for _ in range(length):
            gain = 0.2 * math.exp(-((math.log10(float(self.values["lr"])) + 2.0) ** 2))
            self.loss *= 1.0 - gain * float(self.rng.uniform(0.5, 1.0))
        if self.task.fault == "collapse" and float(self.values["lr"]) > 0.1:
            self.loss = 5.0
        self.steps += length
        spoilt = self.task.fault == "nan" and self.index == 1 and self.steps == 4 and self.task.first_time()
        loss = math.nan if spoilt else self.loss
        return SegmentResult(metrics={"loss": loss}, steps=length)

    def get_state(self) -> State:
        return {"loss": self.loss, "steps": self.steps, "rng": self.rng.bit_generator.state}

    def set_state(self, state: State) -> None:
        self.loss, self.steps = state["loss"], state["steps"]
        self.rng.bit_generator.state = state["rng"]

    def close(self) -> None: ...


@dataclass(frozen=True)
class PaperTask:
    """``fault`` makes member 1 misbehave in its fourth segment: raise, nan, die or hang (these once), or be deadly.
    ``collapse`` makes every member forget what it has learned at a learning rate above 0.1."""

    seconds: float = 0.0
    fault: str = ""
    scratch: str = ""

    def misbehave(self, member: int, steps: int) -> None:
        if member != 1 or steps != 3:
            return
        if self.fault == "raise":
            raise RuntimeError("this member does not like its fourth segment")
        if self.fault == "deadly" or (self.fault in ("die", "hang") and self.first_time()):
            if self.fault != "hang":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(3600)

    def first_time(self) -> bool:
        marker = Path(self.scratch) / "done"
        if marker.exists():
            return False
        marker.touch()
        return True

    def check(self, hyperparameters: Mapping[str, Value]) -> None:
        if "lr" not in hyperparameters:
            raise ValueError("PaperTask needs the hyperparameter 'lr'.")

    def build(self, context: MemberContext, hyperparameters: Mapping[str, Value]) -> PaperMember:
        return PaperMember(self, context, hyperparameters)

    def export(self, state: State, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "loss.txt").write_text(repr(state["loss"]))

    def test(self, state: State) -> Mapping[str, float]:
        return {"test_loss": state["loss"]}


def make(**changes: Any) -> Experiment:
    fields: dict[str, Any] = {
        "candidate": PaperTask(),
        "hyperparameters": {"lr": roles.learning_rate(tune.loguniform(1e-5, 1.0))},
        "metric": "loss",
        "mode": "min",
        "population": 4,
        "segments": 8,
        "agent": Agent(),
        "copy_every": 2,
        "name": "paper",
        "resources": {"CPU": 1},
    }
    return Experiment(**{**fields, **changes})


experiment = make(candidate=PaperTask(seconds=0.05), segments=60, checkpoint_every=1.0)
