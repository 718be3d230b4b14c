"""The model that a refit delivers: the average of copies that have trained on with the rows of validation, too.

Each copy has held out another part of those rows (``population.refitting``), so each row is predicted by copies that
have not seen it. Those predictions calibrate the average, give it its validation score, and say whether to trust it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from raytune_rl.combining.losses import Kind
from raytune_rl.ensemble.candidates import averaged
from raytune_rl.ensemble.delivery import CPU, Bench, Delivered
from raytune_rl.ensemble.kept import Kept
from raytune_rl.population.evaluation import outputs_of
from raytune_rl.population.export import restore
from raytune_rl.population.refitting import LOSS, collapsed, folds_of, held_by, parted
from raytune_rl.population.splits import load_splits
from raytune_rl.records import Mode


def refitted_model(
    before: Delivered,
    finals: Sequence[Kept],
    *,
    copies: int,
    metric: str,
    mode: Mode,
    kind: Kind | None = None,
) -> Delivered | None:
    """The average of the copies, calibrated; None where it is not to be trusted.

    Args:
        before: the model that the copies started from; ``before.task``: with the data as they were.
        finals: what the copies have become; those that have collapsed are left out.
        copies: how many there were.
        metric, mode: of the experiment.
        kind: of the task, where the user has declared one.
    """
    bench = Bench(before.task, metric, mode, kind)

    def loss(network: Any) -> float:
        """On all validation rows, of which each copy has seen most."""
        restored = restore(before.task.network, {**before.state, "network": network})
        return bench.measured(outputs_of(restored, bench.validation, device=CPU))[LOSS.metric]

    first, alone = loss(before.state["network"]), [loss(one.state["network"]) for one in finals]
    sound = [one for one, found in zip(finals, alone, strict=True) if not collapsed(found, first)]
    if not sound:
        return None
    outputs, rows = _crossed(before, sound, copies)
    if parted(loss(averaged(sound).state["network"]), [found for found in alone if not collapsed(found, first)]):
        sound = [finals[int(np.nanargmin(alone))]]  # the one that has learned most
    calibration, binary, metrics = bench.calibrated(outputs, bench.validation.subset(rows))
    if collapsed(metrics[LOSS.metric], before.metrics[LOSS.metric]):
        return None
    told: dict[str, Any] = {
        "copies": len(sound),
        "examples": len(load_splits(before.task.data, CPU).train) + len(bench.validation),
        "before": before.value,
    }
    train_loss = float(np.mean([one.state["metrics"].get("train_loss", np.nan) for one in sound]))
    return replace(
        before,
        state={**before.state, "network": averaged(sound).state["network"]},
        calibration=calibration,
        binary=binary,
        metrics={**before.metrics, **metrics, "train_loss": train_loss},
        value=metrics[metric],
        refit=told,
    )


def _crossed(before: Delivered, sound: Sequence[Kept], copies: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What copies that have not seen them say of the validation rows, and which these are: all of them, unless copies
    are missing."""
    validation = load_splits(before.task.data, CPU).validation
    folds = folds_of(copies, len(validation))
    outputs, rows = [], []
    for fold in range(folds):
        unknowing = [one for one in sound if one.member % folds == fold]
        if unknowing:
            held = held_by(fold, copies, len(validation))
            network = restore(before.task.network, {**before.state, "network": averaged(unknowing).state["network"]})
            outputs.append(outputs_of(network, validation.subset(held), device=CPU))
            rows.append(held)
    order = torch.argsort(torch.cat(rows))
    return torch.cat(outputs)[order], torch.cat(rows)[order]
