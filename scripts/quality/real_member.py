"""What the real peers train: one member of the benchmark's tasks in plain torch, as a Trainable of Ray Tune.

In a module of its own, because every one of Tune's actors imports it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray import tune

from quality.protocol import OFFSET, PB2_WORST, WORST
from raytune_rl.population.optimisers import make_optimizer
from raytune_rl.worlds.task import WorldTask

LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "cross_entropy": torch.nn.functional.cross_entropy,
    "mse": torch.nn.functional.mse_loss,
}


class Member(tune.Trainable):
    """One member: a step of Tune is a segment. Its configuration holds the hyperparameters by name (or, with
    ``positions``, where they are in the search space), and the ``seed``."""

    def setup(self, config: dict[str, Any], task: WorldTask, positions: bool) -> None:
        torch.set_num_threads(1)
        self._task, self._positions = task, positions
        self._begin(config)

    def _begin(self, config: dict[str, Any]) -> None:
        task = self._task
        number = int(self.trial_id.rpartition("_")[2], 16)  # which trial of the experiment it is
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
        if self._positions:
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
        told = min(float(np.log(validation + OFFSET)), PB2_WORST)
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
