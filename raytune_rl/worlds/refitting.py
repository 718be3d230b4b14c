"""Refits in packed worlds, as a run makes them (``Experiment.refit``): copies of what each population would deliver
train on with the rows of validation, too, and are averaged. See ``population.refitting`` and ``ensemble.refitting``.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from raytune_rl.combining.losses import comparable
from raytune_rl.controller.schedule import schedule_factor
from raytune_rl.population.packed.weights import Weights
from raytune_rl.population.refitting import collapsed, folds_of, held_by, parted, pooled
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
        together, rows = pooled(task.splits), len(task.splits.validation)
        unseen = torch.zeros(len(cohort), len(together), dtype=torch.bool)
        for copy in range(len(cohort)):
            unseen[copy, len(task.splits.train) + held_by(copy % members, members, rows)] = True
        self.copies = Cohort(
            replace(task, splits=replace(task.splits, train=together)),
            range(len(cohort)),
            seed=seed,
            device=str(cohort.present.parameters.device),
            unseen=unseen,
        )
        models = averages(cohort, members)
        self._before = judged(cohort, models, cohort.outputs(task.splits.validation, models))
        self.copies.present.write(models.take(torch.arange(groups).repeat_interleave(members)))
        best = cohort.best[1].reshape(groups, members).argmin(axis=1) + np.arange(groups) * members
        self._values = [cohort.best_values[leader] for leader in best]

    def train(self, segment: int) -> None:
        """A segment, counted from the refit's first one: under a cosine."""
        factor = schedule_factor("cosine", segment, self._segments)
        space, values = self.copies.task.space, []
        for one in self._values:
            values += [space.decode(space.encode(one), factor)] * self._members
        self.copies.apply(values)
        self.copies.train()

    def deliver(self) -> Delivered:
        """What would be delivered now: the averages of the copies, or of a population whose copies have parted the one
        that has learned most; where a refit has gone wrong, what it began with."""
        models, groups = self.copies.present, len(self._values)
        validation = self.copies.task.splits.validation
        average = _means(models, self._members, range(self._members))
        said = self.copies.outputs(validation, average)
        together, alone = self.copies.losses(said, validation), self.copies.score(validation)[0]
        for group, losses in enumerate(alone.reshape(groups, -1)):
            if parted(together[group], losses.tolist()):
                best = group * self._members + int(comparable(losses).argmin())
                average.take(slice(group, group + 1)).write(models.take(slice(best, best + 1)))
        folds = folds_of(self._members, len(validation))
        for fold in range(min(folds, self._members)):
            unknowing = _means(models, self._members, range(fold, self._members, folds))
            held = held_by(fold, self._members, len(validation)).to(said.device)
            theirs = self.copies.outputs(validation.subset(held), unknowing)
            known = torch.isfinite(theirs).flatten(1).all(dim=1)
            said[:, held] = torch.where(known.view(-1, *[1] * (theirs.ndim - 1)), theirs, said[:, held])
        found = judged(self.copies, average, said)
        wrong = np.array([collapsed(*pair) for pair in zip(found.validation, self._before.validation, strict=True)])
        return Delivered(
            validation=np.where(wrong, self._before.validation, found.validation),
            test=np.where(wrong, self._before.test, found.test),
            accuracy=np.where(wrong, self._before.accuracy, found.accuracy),
        )


def _means(models: Weights, members: int, chosen: range) -> Weights:
    """Of each population the mean of the ``chosen`` copies, G models: without those that have diverged, if any others
    are among them."""
    means = []
    for first in range(0, len(models), members):
        copies = models.take(slice(first, first + members))
        sound = [copy for copy in chosen if torch.isfinite(copies.parameters[copy]).all()] or list(chosen)
        shares = torch.zeros(1, members)
        shares[0, sound] = 1.0 / len(sound)
        means.append(copies.averages(shares))
    return Weights.stack(means)
