"""Refits of packed populations: what their copies see, and what is delivered."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from raytune_rl.population.refitting import held_by
from raytune_rl.worlds.cohort import Cohort
from raytune_rl.worlds.delivery import averages, deliver
from raytune_rl.worlds.generator import make_world
from raytune_rl.worlds.refitting import Refitting
from raytune_rl.worlds.task import WorldTask
from tests.worlds.test_delivery import CONVOLUTION, LINEAR, REGRESSION, clouds, normalised, plain, play

MEMBERS, GROUPS = 4, 2


def refitted(task: WorldTask, segments: int = 3) -> tuple[Cohort, Refitting]:
    cohort, _ = play(task, members=MEMBERS, groups=GROUPS)
    refitting = Refitting(cohort, MEMBERS, segments=segments, seed=5)
    for segment in range(segments):
        refitting.train(segment)
    return cohort, refitting


def test_the_copies_begin_as_what_would_be_delivered() -> None:
    task = clouds(normalised)
    cohort, _ = play(task, members=MEMBERS, groups=GROUPS)
    models = averages(cohort, MEMBERS)
    copies = Refitting(cohort, MEMBERS, segments=3, seed=5).copies
    for copy in range(len(copies)):
        one, model = copies.present.take(slice(copy, copy + 1)), models.take(slice(copy // 4, copy // 4 + 1))
        torch.testing.assert_close(one.parameters, model.parameters)
        for name, value in one.buffers.items():
            torch.testing.assert_close(value, model.buffers[name])


def test_a_copy_never_sees_what_it_holds_out_and_sees_the_rest() -> None:
    """Other answers to the rows that copy 1 holds out change the others, and not copy 1."""
    task = clouds(plain)
    cohort, _ = play(task, members=MEMBERS, groups=1)
    validation = task.splits.validation
    targets = validation.targets.clone()
    targets[held_by(1, MEMBERS, len(targets))] ^= 1
    found = []
    for given in (validation.targets, targets):
        refitting = Refitting(cohort, MEMBERS, segments=4, seed=5)
        rows = torch.cat([task.splits.train.targets, given])
        refitting.copies._train = dataclasses.replace(refitting.copies._train, targets=rows)
        for segment in range(4):
            refitting.train(segment)
        found.append(refitting.copies.present.parameters.clone())
    same = (found[0] == found[1]).all(dim=1)
    assert same.tolist() == [False, True, False, False]


@pytest.mark.parametrize("number", [LINEAR, CONVOLUTION, REGRESSION])
def test_it_delivers_a_model_per_population_and_leaves_the_populations_alone(number: int) -> None:
    task = make_world(number).task
    cohort, refitting = refitted(task)
    before = [value.clone() for value in cohort._population.snapshot().tensors()]
    found = refitting.deliver()
    assert found.validation.shape == found.test.shape == (GROUPS,)
    assert np.isfinite(found.validation).all() and np.isfinite(found.test).all()
    again = Refitting(cohort, MEMBERS, segments=3, seed=5)
    for segment in range(3):
        again.train(segment)
    np.testing.assert_array_equal(again.deliver().test, found.test)
    for one, two in zip(before, cohort._population.snapshot().tensors(), strict=True):
        assert torch.equal(one, two)


def test_its_validation_is_not_what_the_copies_have_learned_by_heart() -> None:
    """Answers at random cannot be predicted, however well the rows are known."""
    task = clouds(plain, rows=24)
    generator = torch.Generator().manual_seed(1)
    noise = torch.randint(2, (24,), generator=generator)
    splits = dataclasses.replace(task.splits, validation=dataclasses.replace(task.splits.validation, targets=noise))
    task = dataclasses.replace(task, splits=splits, segment_length=200)
    _, refitting = refitted(task, segments=4)
    known = refitting.copies.score(task.splits.validation)[0]
    assert (refitting.deliver().validation > known.reshape(GROUPS, MEMBERS).mean(axis=1) + 0.03).all()


def test_rates_fall_from_those_of_the_best_member() -> None:
    task = clouds(plain)
    cohort, _ = play(task, members=MEMBERS, groups=GROUPS)
    refitting = Refitting(cohort, MEMBERS, segments=4, seed=5)
    rates = []
    for segment in range(4):
        refitting.train(segment)
        rates.append(refitting.copies._population.learning_rate.clone())
    best = cohort.best[1].reshape(GROUPS, MEMBERS).argmin(axis=1) + np.arange(GROUPS) * MEMBERS
    first = [cohort.best_values[leader]["learning_rate"] for leader in best for _ in range(MEMBERS)]
    assert rates[0].tolist() == pytest.approx([0.9619 * float(rate) for rate in first], rel=1e-3)
    assert all((one > two).all() for one, two in itertools.pairwise(rates))


def test_it_is_better_than_what_it_began_with_where_rows_are_few() -> None:
    gains = []
    for number in range(20, 28):
        world = make_world(number)
        if world.ensemble:
            continue
        cohort, _ = play(world.task, members=MEMBERS, groups=GROUPS)
        start = deliver(cohort, MEMBERS).test
        refitting = Refitting(cohort, MEMBERS, segments=4, seed=5)
        for segment in range(4):
            refitting.train(segment)
        gains += np.log((start + 0.02) / (refitting.deliver().test + 0.02)).tolist()
    assert np.mean(gains) > 0.0


def test_a_copy_that_has_diverged_spoils_nothing_but_its_part() -> None:
    task = clouds(plain)
    _, refitting = refitted(task)
    expected = refitting.deliver()
    refitting.copies.present.parameters[1] = float("nan")
    found = refitting.deliver()
    assert np.isfinite(found.test).all() and found.test[1] == expected.test[1]
    assert np.isfinite(found.validation).all() and found.test[0] == pytest.approx(expected.test[0], rel=0.1)


def test_a_refit_that_has_gone_wrong_gives_what_it_began_with() -> None:
    task = clouds(plain)
    cohort, refitting = refitted(task)
    refitting.copies.present.parameters[:MEMBERS] = float("nan")
    found, start = refitting.deliver(), deliver(cohort, MEMBERS)
    assert found.test[0] == start.test[0] and found.test[1] != start.test[1]
