"""Refits in packed worlds, as a run makes them (``Experiment.refit``).

Copies of the model that each population would deliver continue to train, now also with validation rows, and are
averaged. See ``population.cross_fitting`` and ``ensemble.refit_model``.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from raytune_rl.combining.losses import comparable
from raytune_rl.controller.failures import DIVERGENCE_FACTOR
from raytune_rl.controller.schedule import schedule_factor
from raytune_rl.population.cross_fitting import collapsed, drifted_apart, folds_of, held_by, pooled
from raytune_rl.population.packed.weights import Weights
from raytune_rl.worlds.cohort import Cohort
from raytune_rl.worlds.delivery import Delivered, averages, judged


class Refitting:
    """The refits of G populations of ``members`` each that make up ``cohort``. Each population's model is copied once
    per member.

    Args:
        cohort: the populations at the time when their refits begin. It is not changed.
        segments: length of the refits.
        seed: all randomness derives from it.

    Attributes:
        copies: a cohort of all copies.
    """

    def __init__(self, cohort: Cohort, members: int, *, segments: int, seed: int) -> None:
        task, groups = cohort.task, len(cohort) // members
        self._members, self._segments = members, segments
        models = averages(cohort, members)
        self._before = judged(cohort, models, cohort.outputs(task.splits.validation, models))
        best = cohort.best[1].reshape(groups, members).argmin(axis=1) + np.arange(groups) * members
        self._values = [cohort.best_values[leader] for leader in best]
        self.copies = _Copies(cohort, members, seed=seed)
        self.copies.enter(models.take(torch.arange(groups).repeat_interleave(members)))
        self._rate_factors = np.ones(len(cohort))

    def train(self, segment: int) -> None:
        """Train all copies for one segment, counted from 0 at the start of the refit; learning rates follow a cosine.
        Copies that collapse go back to their best weights, with lower learning rates (see
        ``population.refit_task.RefitMember``)."""
        factor = schedule_factor("cosine", segment, self._segments)
        space = self.copies.task.space
        starts = [space.encode(self._values[copy // self._members]) for copy in range(len(self.copies))]
        self.copies.apply(
            [
                space.decode(positions, factor * rate_factor)
                for positions, rate_factor in zip(starts, self._rate_factors, strict=True)
            ]
        )
        collapsed_copies = np.flatnonzero(np.isnan(self.copies.train().validation_loss)).tolist()
        self.copies.take(collapsed_copies, collapsed_copies, [True] * len(collapsed_copies))
        self._rate_factors[collapsed_copies] *= DIVERGENCE_FACTOR

    def deliver(self) -> Delivered:
        """The results of the models that the populations would deliver now, by the rules of ``ensemble.refit_model``.

        Usually that is the average of the copies that have not collapsed. If the copies have drifted apart, it is the
        copy with the lowest loss; if the refit has failed, it is the model that the refit began with. Each validation
        row is predicted by the copies that held it out, or by the average if all of these have collapsed.
        """
        models, members = self.copies.present, self._members
        validation = self.copies.task.splits.validation
        outputs = self.copies.outputs(validation)
        sound, losses = ~self.copies.collapsed(outputs), comparable(self.copies.losses(outputs, validation))
        delivered_models = _means(models, members, sound)
        average_outputs = self.copies.outputs(validation, delivered_models)
        average_losses = self.copies.losses(average_outputs, validation)
        held_out_outputs = self._held_out_outputs(average_outputs, sound)
        for group in range(len(delivered_models)):
            of_group = slice(group * members, (group + 1) * members)
            if drifted_apart(average_losses[group], losses[of_group][sound[of_group]].tolist() or [math.inf]):
                best = of_group.start + int(losses[of_group].argmin())
                delivered_models.take(slice(group, group + 1)).write(models.take(slice(best, best + 1)))
        after, before = judged(self.copies, delivered_models, held_out_outputs), self._before
        failed = np.array([collapsed(*pair) for pair in zip(after.validation, before.validation, strict=True)])
        failed |= ~sound.reshape(-1, members).any(axis=1)
        return Delivered(
            validation=np.where(failed, before.validation, after.validation),
            test=np.where(failed, before.test, after.test),
            accuracy=np.where(failed, before.accuracy, after.accuracy),
        )

    def _held_out_outputs(self, average_outputs: torch.Tensor, sound: np.ndarray) -> torch.Tensor:
        """Outputs for the validation split, (G, N, ...), where each row is predicted by the mean of the sound copies
        that held it out. Rows without such a copy keep ``average_outputs``, which are overwritten.

        ``sound`` is bool, (K,).
        """
        models, members = self.copies.present, self._members
        validation = self.copies.task.splits.validation
        folds = folds_of(members, len(validation))
        for fold in range(min(folds, members)):
            held = held_by(fold, members, len(validation)).to(average_outputs.device)
            holding_out = sound & (np.arange(len(sound)) % members % folds == fold)
            fold_outputs = self.copies.outputs(validation.subset(held), _means(models, members, holding_out))
            for group in np.flatnonzero(holding_out.reshape(-1, members).any(axis=1)).tolist():
                average_outputs[group, held] = fold_outputs[group]
        return average_outputs


class _Copies(Cohort):
    """A cohort that also trains on validation rows: each copy on all but those that it holds out. A copy's validation
    loss is its loss on the rows that it holds out, or NaN if it has collapsed.

    Args:
        cohort: gives the task, the number of copies and the device.
        members: copies per population.
    """

    _first_losses: np.ndarray | None = None  # on all validation rows, before the refit

    def __init__(self, cohort: Cohort, members: int, *, seed: int) -> None:
        task = cohort.task
        rows, pool = len(task.splits.validation), pooled(task.splits)
        self._held = [held_by(copy % members, members, rows) for copy in range(len(cohort))]
        unseen = torch.zeros(len(cohort), len(pool), dtype=torch.bool)
        for copy, held in enumerate(self._held):
            unseen[copy, len(task.splits.train) + held] = True
        super().__init__(
            replace(task, splits=replace(task.splits, train=pool)),
            range(len(cohort)),
            seed=seed,
            device=str(cohort.present.parameters.device),
            unseen=unseen,
        )

    def enter(self, weights: Weights) -> None:
        super().enter(weights)
        validation = self.task.splits.validation
        self._first_losses = self.losses(self.outputs(validation), validation)

    def validated(self, outputs: torch.Tensor) -> np.ndarray:
        validation = self.task.splits.validation
        parts = [
            self.losses(outputs[copy : copy + 1, held.to(outputs.device)], validation.subset(held))
            for copy, held in enumerate(self._held)
        ]
        return np.where(self.collapsed(outputs), np.nan, np.concatenate(parts))

    def collapsed(self, outputs: torch.Tensor) -> np.ndarray:
        """Which copies have collapsed, bool, (K,), from their ``outputs`` for all validation rows."""
        if self._first_losses is None:
            return np.zeros(len(self), dtype=bool)
        losses = self.losses(outputs, self.task.splits.validation)
        return np.array([collapsed(*pair) for pair in zip(losses, self._first_losses, strict=True)])


def _means(models: Weights, members: int, chosen: np.ndarray) -> Weights:
    """For each population the mean weights of its ``chosen`` copies, or of all its copies if none is chosen: G models.

    ``chosen`` is bool, (K,).
    """
    means = []
    for first in range(0, len(models), members):
        of_group = chosen[first : first + members]
        shares = torch.as_tensor(of_group / of_group.sum() if of_group.any() else np.full(members, 1.0 / members))
        means.append(models.take(slice(first, first + members)).averages(shares[None]))
    return Weights.stack(means)
