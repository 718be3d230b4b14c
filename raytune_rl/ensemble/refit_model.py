"""The model that a refit delivers: the average of copies that have trained on with the rows of validation, too.

Each copy has held out another part of those rows (``population.cross_fitting``), so each row is predicted by copies
that have not seen it. Those predictions calibrate the average, give it its validation score, and show whether to trust
it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from raytune_rl.combining.losses import Kind
from raytune_rl.ensemble.candidates import averaged
from raytune_rl.ensemble.delivery import Delivered
from raytune_rl.ensemble.kept import Kept
from raytune_rl.ensemble.validation import ValidationSplit
from raytune_rl.population.cross_fitting import collapsed, drifted_apart, folds_of, held_by
from raytune_rl.population.evaluation import measure, outputs_of
from raytune_rl.population.export import restore
from raytune_rl.population.refit_task import ALL_ROWS, LOSS
from raytune_rl.population.splits import CPU, Split, load_splits
from raytune_rl.records import Mode

logger = logging.getLogger(__name__)

TOLD = 0.1
"""A refit that is worse by more than this share is remarked upon. (Not to take it would lose more than it saves:
``experiments/controller/LOG.md``, "Refits".)"""


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
    validation = ValidationSplit(before.task, kind)
    first = _loss(before, restore(before.task.network, dict(before.state)), validation.split)
    sound = [one for one in finals if not collapsed(_known(one), first)]
    if not sound:
        return None
    outputs, rows = _crossed(before, sound, copies)
    if drifted_apart(_loss(before, _average(before, sound), validation.split), [_known(one) for one in sound]):
        sound = [min(sound, key=_known)]  # the one that has learned most
    judged = validation.split.subset(rows)
    crossed = validation.calibrated(outputs, metric=metric, mode=mode, split=judged)
    metrics = crossed.metrics
    then = _loss(before, before.model(), judged)
    if collapsed(metrics[LOSS], then):
        return None
    if metrics[LOSS] > then + TOLD * abs(then):
        logger.warning(
            "on validation rows the refit has a loss of %.4g, and what it began with, which they had chosen, %.4g: it "
            "is delivered all the same, but the task may be one that overfits, and better off with refit=False",
            metrics[LOSS],
            then,
        )
    return replace(
        before,
        state={**before.state, "network": averaged(sound).state["network"]},
        calibration=crossed.calibration,
        binary=crossed.binary,
        metrics={
            **before.metrics,
            **metrics,
            "train_loss": float(np.mean([one.state["metrics"]["train_loss"] for one in sound])),
        },
        value=metrics[metric],
        refit={
            "copies": len(sound),
            "examples": len(load_splits(before.task.data, CPU).train) + len(validation.split),
            "before": before.value,
        },
    )


def _crossed(before: Delivered, sound: Sequence[Kept], copies: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What copies that have not seen them say of validation rows, and which these are: all of them, unless copies are
    missing."""
    validation = load_splits(before.task.data, CPU).validation
    folds = folds_of(copies, len(validation))
    outputs, rows = [], []
    for fold in range(folds):
        unknowing = [one for one in sound if one.member % folds == fold]
        if unknowing:
            held = held_by(fold, copies, len(validation))
            outputs.append(outputs_of(_average(before, unknowing), validation.subset(held), device=CPU))
            rows.append(held)
    return torch.cat(outputs), torch.cat(rows)


def _average(before: Delivered, copies: Sequence[Kept]) -> nn.Module:
    return restore(before.task.network, {**before.state, "network": averaged(copies).state["network"]})


def _loss(before: Delivered, model: nn.Module, split: Split) -> float:
    """The task's loss alone: metrics of the user's may be dear, or fail on what is not going to be delivered."""
    outputs = outputs_of(model, split, device=CPU)
    return measure(outputs, split, loss=before.task.loss, metrics={}, prefix="validation")[LOSS]


def _known(one: Kept) -> float:
    """A copy's own word of its loss on all validation rows; NaN of one that has never come to the end of a segment."""
    return float(one.state["metrics"].get(ALL_ROWS, math.nan))
