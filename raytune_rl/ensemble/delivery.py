"""The one model that a run delivers: an average of related checkpoints where validation says so, calibrated.

A population whose members copy from each other ends in one basin of the loss, so the mean of their weights is a model
(``combining.soups``); its probabilities are made to mean what they say (``combining.calibration``). Both cost next to
nothing when predicting. Chosen on the validation split, and never worse there than the best checkpoint by more than
doubting few rows costs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from torch import nn

from raytune_rl.combining.calibration import Calibration
from raytune_rl.combining.losses import Array, Floats, Kind
from raytune_rl.combining.soups import soup_shares
from raytune_rl.ensemble.candidates import averaged, mixable, ordered
from raytune_rl.ensemble.kept import Kept, Place
from raytune_rl.ensemble.validation import Reading, ValidationSplit, on_test_split
from raytune_rl.mdp.score import order
from raytune_rl.population.calibrating import calibrate
from raytune_rl.population.export import export, restore
from raytune_rl.population.optimisers import to_tensor
from raytune_rl.population.torch_task import TorchTask
from raytune_rl.records import Mode

SECONDS: Final = 20.0
"""Of predicting on the validation split that choosing may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """What ``best/`` holds, where that is more than a checkpoint.

    Attributes:
        task: whose model it is.
        place, alone: of the best checkpoint: which it is, and its value.
        state: with the averaged weights; all else is the best checkpoint's.
        calibration, binary: of its outputs, see ``population.calibrating.calibrated``.
        parts: the checkpoints and their shares, the largest first.
        metrics: on the validation split; of probabilities also ``validation_ece`` and ``validation_brier``.
        value: of the experiment's metric among them.
        reading: of its outputs.
        refit: for the summary, how it was refitted (``ensemble.refit_model``): ``copies`` that were averaged (0: the
            refit was not taken), ``examples`` of both splits, the value ``before``, ``segments`` and ``train_s``.
    """

    task: TorchTask
    place: Place
    alone: float
    state: Mapping[str, Any]
    calibration: Calibration
    binary: bool
    parts: tuple[tuple[Place, float], ...]
    metrics: Mapping[str, float]
    value: float
    reading: Reading | None
    refit: Mapping[str, Any] | None = None

    def model(self) -> nn.Module:
        """In eval mode, on the CPU."""
        return calibrate(restore(self.task.network, dict(self.state)), self.calibration, binary=self.binary)

    def export(self, directory: Path) -> bool:
        """Write it for ``raytune_rl.load``; True, as where a checkpoint was found to export."""
        state = {**self.state, "metrics": dict(self.metrics)}
        export(
            self.task.network,
            state,
            directory,
            calibration=self.calibration,
            binary=self.binary,
            parts=self._told(),
            refit=self.refit if self.refit and self.refit["copies"] else None,
        )
        return True

    def summary(self) -> dict[str, Any]:
        """For ``summary.json``."""
        return {
            "member": self.place[0],
            "segment": self.place[1],
            "value": self.value,
            "metrics": dict(self.metrics),
            "hyperparameters": dict(self.state["hyperparameters"]),
            "checkpoint": {"value": self.alone, "metrics": dict(self.state["metrics"])},
            **self.calibration.told(),
            "parts": self._told(),
            **({} if self.refit is None else {"refit": dict(self.refit)}),
        }

    def test(self) -> dict[str, float]:
        """Its metrics on the test split; empty where there is none. To be called once, at the end."""
        return on_test_split(self.model(), self.task, self.reading)

    def _told(self) -> list[dict[str, float]]:
        """The parts as files hold them."""
        return [{"member": member, "segment": segment, "share": share} for (member, segment), share in self.parts]


def delivered_model(
    task: TorchTask,
    kept: Sequence[Kept],
    *,
    metric: str,
    mode: Mode,
    kind: Kind | None = None,
    plain: bool = False,
) -> Delivered | None:
    """The average with the best ``metric`` on validation, calibrated; None where that is the best checkpoint as it is
    (but not with ``plain``), or ``metric`` is none that a validation split gives.

    Args:
        task: whose members they are.
        kept: their states; those of other architectures than the best one's are left out.
        metric, mode: of the experiment.
        kind: of the task, where the user has declared one (``Ensemble.kind``).
    """
    known = [one for one in ordered(kept, metric, mode) if metric in one.state["metrics"]]
    candidates = [one for one in known if math.isfinite(one.state["metrics"][metric])]
    if not candidates or not metric.startswith("validation_"):
        return None
    validation, sign = ValidationSplit(task, kind), 1.0 if mode == "min" else -1.0
    candidates.sort(key=lambda one: order(one.state["metrics"], metric=metric, mode=mode))
    candidates = [one for one in candidates if mixable(candidates[0].state, one.state, task)]
    shares = soup_shares(
        [sign * one.state["metrics"][metric] for one in candidates],
        _judge(validation, candidates, metric=metric, sign=sign),
    )
    used = [int(index) for index in np.argsort(-shares, kind="stable") if shares[index] > 0]
    state = averaged([candidates[i] for i in used], shares[used]).state if len(used) > 1 else candidates[used[0]].state
    found = validation.calibrated(validation.outputs(validation.network(state)), metric=metric, mode=mode)
    if len(used) == 1 and found.calibration == Calibration() and not plain:
        return None
    leader = candidates[0].state
    return Delivered(
        task=task,
        place=candidates[0].place,
        alone=leader["metrics"][metric],
        state={**leader, "network": state["network"]},
        calibration=found.calibration,
        binary=found.binary,
        reading=found.reading,
        parts=tuple((candidates[i].place, float(shares[i])) for i in used),
        metrics={**leader["metrics"], **found.metrics},
        value=found.metrics[metric],
    )


def _judge(
    validation: ValidationSplit, candidates: Sequence[Kept], *, metric: str, sign: float
) -> Callable[[Floats], Array]:
    """For ``soup_shares``; averages for which there is no time are infinitely bad."""
    deadline = time.monotonic() + SECONDS
    network = validation.network(candidates[0].state)

    def judged(all_shares: Floats) -> Array:
        losses = np.full(len(all_shares), np.inf)
        for row, shares in enumerate(all_shares):
            if time.monotonic() > deadline:
                break
            used = np.flatnonzero(shares).tolist()
            state = averaged([candidates[i] for i in used], shares[used]).state
            network.load_state_dict({name: to_tensor(array) for name, array in state["network"].items()})
            losses[row] = sign * validation.measured(validation.outputs(network))[metric]
        return losses

    return judged
