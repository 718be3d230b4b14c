"""Refits in packed worlds, as a run makes them (``Experiment.refit``).

Copies of what each population would deliver train on with the rows of validation, too, and are averaged. See
``population.cross_fitting`` and ``ensemble.refit_model``.
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
    """The refits of G populations of ``members`` each, one after the other in ``cohort``: as many copies of each model.

    Args:
        cohort: where the populations are when their refits begin. It stays as it is.
        segments: that the refits will have.
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
        """A segment, counted from the refit's first one: under a cosine. Copies that collapse go back to their best,
        with lower rates (see ``population.refit_task.RefitMember``)."""
        factor = schedule_factor("cosine", segment, self._segments)
        space = self.copies.task.space
        starts = [space.encode(self._values[copy // self._members]) for copy in range(len(self.copies))]
        self.copies.apply(
            [space.decode(at, factor * rate_factor) for at, rate_factor in zip(starts, self._rate_factors, strict=True)]
        )
        back = np.flatnonzero(np.isnan(self.copies.train().validation_loss)).tolist()
        self.copies.take(back, back, [True] * len(back))
        self._rate_factors[back] *= DIVERGENCE_FACTOR

    def deliver(self) -> Delivered:
        """What each population would deliver now, by the rules of ``ensemble.refit_model``: the average of the copies
        that have not collapsed; where copies have drifted apart, the one with the lowest loss; where the refit has
        failed, the model that it began with. Rows that no sound copy held out are predicted by the average."""
        models, members = self.copies.present, self._members
        validation = self.copies.task.splits.validation
        outputs = self.copies.outputs(validation)
        sound, alone = ~self.copies.collapsed(outputs), comparable(self.copies.losses(outputs, validation))
        average = _means(models, members, sound)
        said = self.copies.outputs(validation, average)
        together = self.copies.losses(said, validation)
        folds = folds_of(members, len(validation))
        for fold in range(min(folds, members)):
            held = held_by(fold, members, len(validation)).to(said.device)
            unknowing = sound & (np.arange(len(sound)) % members % folds == fold)
            theirs = self.copies.outputs(validation.subset(held), _means(models, members, unknowing))
            for group in np.flatnonzero(unknowing.reshape(-1, members).any(axis=1)).tolist():
                said[group, held] = theirs[group]
        for group in range(len(average)):
            mine = slice(group * members, (group + 1) * members)
            if drifted_apart(together[group], alone[mine][sound[mine]].tolist() or [math.inf]):
                best = mine.start + int(alone[mine].argmin())
                average.take(slice(group, group + 1)).write(models.take(slice(best, best + 1)))
        found = judged(self.copies, average, said)
        wrong = np.array([collapsed(*pair) for pair in zip(found.validation, self._before.validation, strict=True)])
        wrong |= ~sound.reshape(-1, members).any(axis=1)
        return Delivered(
            validation=np.where(wrong, self._before.validation, found.validation),
            test=np.where(wrong, self._before.test, found.test),
            accuracy=np.where(wrong, self._before.accuracy, found.accuracy),
        )


class _Copies(Cohort):
    """A cohort that trains on the rows of validation, too, each member but on those that it holds out, by which it is
    judged: NaN where it has collapsed.

    Args:
        cohort: whose task it is; of populations of ``members`` each.
    """

    _first: np.ndarray | None = None

    def __init__(self, cohort: Cohort, members: int, *, seed: int) -> None:
        task = cohort.task
        rows, together = len(task.splits.validation), pooled(task.splits)
        self._held = [held_by(copy % members, members, rows) for copy in range(len(cohort))]
        unseen = torch.zeros(len(cohort), len(together), dtype=torch.bool)
        for copy, held in enumerate(self._held):
            unseen[copy, len(task.splits.train) + held] = True
        super().__init__(
            replace(task, splits=replace(task.splits, train=together)),
            range(len(cohort)),
            seed=seed,
            device=str(cohort.present.parameters.device),
            unseen=unseen,
        )

    def enter(self, weights: Weights) -> None:
        super().enter(weights)
        validation = self.task.splits.validation
        self._first = self.losses(self.outputs(validation), validation)

    def validated(self, outputs: torch.Tensor) -> np.ndarray:
        validation = self.task.splits.validation
        parts = [
            self.losses(outputs[copy : copy + 1, held.to(outputs.device)], validation.subset(held))
            for copy, held in enumerate(self._held)
        ]
        return np.where(self.collapsed(outputs), np.nan, np.concatenate(parts))

    def collapsed(self, outputs: torch.Tensor) -> np.ndarray:
        """Which of them have, (K,), by their ``outputs`` for all validation rows."""
        if self._first is None:
            return np.zeros(len(self), dtype=bool)
        now = self.losses(outputs, self.task.splits.validation)
        return np.array([collapsed(*pair) for pair in zip(now, self._first, strict=True)])


def _means(models: Weights, members: int, chosen: np.ndarray) -> Weights:
    """Of each population the mean of the ``chosen`` copies (K,), bool: G models; of all where none is."""
    means = []
    for first in range(0, len(models), members):
        mine = chosen[first : first + members]
        shares = torch.as_tensor(mine / mine.sum() if mine.any() else np.full(members, 1.0 / members))
        means.append(models.take(slice(first, first + members)).averages(shares[None]))
    return Weights.stack(means)
