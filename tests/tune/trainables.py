"""Class Trainables and functions as users write them, one for each way of behaving that matters to a scheduler."""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from ray import tune


def meet(config: dict[str, Any], done: int) -> None:
    """Make trials that start whenever Ray likes overlap as a test needs it, through files in ``config["meet"]``.

    A small ``lr`` waits after two steps for a large one to have made five; that lingers until the small one has made
    three, and is slow from then on.
    """
    if "meet" not in config:
        return
    place, small, deadline = Path(config["meet"]), config["lr"] < 0.5, time.monotonic() + 60
    place.mkdir(exist_ok=True)
    if done == (3 if small else 5):
        (place / ("small" if small else "large")).touch()
    while small and done == 2 and not (place / "large").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    if not small and done >= 5:
        time.sleep(0.02 if (place / "small").exists() else 0.2)


class Counter(tune.Trainable):
    """Counts up by ``lr`` per step. ``reset_config`` keeps what has been counted."""

    def setup(self, config: dict[str, Any]) -> None:
        self.lr = config["lr"]
        self.total = 0.0

    def step(self) -> dict[str, Any]:
        time.sleep(self.config.get("sleep", 0.0))
        meet(self.config, self.iteration)
        self.total += self.lr
        return {"total": self.total, "lr_used": self.lr}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any] | None:
        return {"total": self.total, "lr": self.lr}

    def load_checkpoint(self, checkpoint: Any) -> None:
        self.total = checkpoint["total"]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.lr = new_config["lr"]
        return True


class Rebuilding(Counter):
    """``reset_config`` builds the model anew."""

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True


class Overwriting(Counter):
    """``load_checkpoint`` brings the checkpoint's learning rate back (ray issue 62173)."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        self.total, self.lr = checkpoint["total"], checkpoint["lr"]


class InFiles(Counter):
    """Keeps its checkpoint in files of its own."""

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        inner = Path(checkpoint_dir, "deep")
        inner.mkdir()
        (inner / "total.json").write_text(json.dumps(self.total))

    def load_checkpoint(self, checkpoint: Any) -> None:
        self.total = json.loads(Path(checkpoint, "deep", "total.json").read_text())


class Refusing(Counter):
    """``reset_config`` is there, and says no."""

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        return False


class WithoutReset(Counter):
    """No ``reset_config``."""

    reset_config = tune.Trainable.reset_config


class BreaksOnLoad(Counter):
    def load_checkpoint(self, checkpoint: Any) -> None:
        raise RuntimeError("the weights do not fit")


class Reporting(Counter):
    """Ignores what it is told, and reports what it uses under the hyperparameter's own name."""

    def step(self) -> dict[str, Any]:
        self.total += 1.0
        return {"total": self.total, "lr": 0.5}


class NanAfterThree(Counter):
    """Diverges with a large learning rate."""

    def step(self) -> dict[str, Any]:
        result = super().step()
        if self.iteration >= 2 and self.lr > 0.9:
            self.total = math.nan
        return {**result, "total": self.total}


class Together(Counter):
    """Begins when two trials are running."""

    def step(self) -> dict[str, Any]:
        place, deadline = Path(self.config["place"]), time.monotonic() + 60
        (place / str(self.trial_id)).touch()
        while len(list(place.iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        return super().step()


class DiesOnce(Counter):
    """The first trial's process is killed at its fifth step, once."""

    def step(self) -> dict[str, Any]:
        marker = Path(self.config["marker"])
        if self.iteration == 4 and self.lr < 0.2 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), 9)
        return super().step()


def counting(config: dict[str, Any]) -> None:
    """The same as a function: counts up, and reports a checkpoint with every ``every``-th report (0 = never)."""
    total, step = 0.0, 0
    checkpoint = tune.get_checkpoint()
    if checkpoint:
        with checkpoint.as_directory() as directory:
            total, step = json.loads(Path(directory, "state.json").read_text())
    while step < config.get("steps", 10**9):
        meet(config, step)
        total, step = total + config["lr"], step + 1
        metrics = {"total": total, "lr_used": config["lr"]}
        every = config.get("every", 1)
        if every and step % every == 0:
            with tempfile.TemporaryDirectory() as directory:
                Path(directory, "state.json").write_text(json.dumps([total, step]))
                tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(directory))
        else:
            tune.report(metrics)
