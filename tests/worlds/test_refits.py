"""Refits of packed populations: what their copies see, and what is delivered."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from raytune_rl.population.cross_fitting import held_by
from raytune_rl.worlds.cohort import Cohort
from raytune_rl.worlds.delivery import averages, deliver
from raytune_rl.worlds.generator import make_world
from raytune_rl.worlds.refits import Refitting, _means
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


def test_its_validation_is_what_copies_say_of_rows_that_they_have_not_seen() -> None:
    task = make_world(REGRESSION).task  # nothing to be calibrated
    _, refitting = refitted(task)
    copies, validation = refitting.copies, task.splits.validation
    outputs = copies.outputs(validation)
    assert not copies.collapsed(outputs).any()
    unknowing = torch.arange(len(validation)) % MEMBERS
    for group, found in enumerate(refitting.deliver().validation):
        said = outputs[group * MEMBERS + unknowing, torch.arange(len(validation))]
        assert found == pytest.approx(copies.losses(said[None], validation)[0], rel=1e-5)


def test_rates_fall_from_those_of_the_best_member() -> None:
    task = clouds(plain)
    cohort, _ = play(task, members=MEMBERS, groups=GROUPS)
    refitting = Refitting(cohort, MEMBERS, segments=4, seed=5)
    rates = []
    for segment in range(4):
        refitting.train(segment)
        rates.append(refitting.copies._population.settings.learning_rate.clone())
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
    assert found.accuracy[0] == start.accuracy[0]


def test_a_copy_that_collapses_goes_back_to_its_best_with_a_quarter_of_its_rate() -> None:
    task = clouds(plain)
    _, refitting = refitted(task)
    refitting.copies.present.parameters[1] *= 1e4
    good = refitting.copies._best.parameters.clone()
    refitting.train(0)
    torch.testing.assert_close(refitting.copies.present.parameters[1], good[1])
    assert refitting._rate_factors[:4].tolist() == [1.0, 0.25, 1.0, 1.0]
    before = refitting.copies._population.settings.learning_rate.clone()
    refitting.train(0)
    rates = refitting.copies._population.settings.learning_rate
    torch.testing.assert_close(rates[1], before[1] * 0.25)
    torch.testing.assert_close(rates[[0, 2]], before[[0, 2]])
    refitting.copies.present.parameters[1] *= 1e4
    refitting.train(0)
    assert refitting._rate_factors[1] == 0.0625


def test_copies_are_judged_by_the_rows_that_they_hold_out() -> None:
    task = clouds(plain)
    _, refitting = refitted(task)
    copies, validation = refitting.copies, task.splits.validation
    found = copies.validated(copies.outputs(validation))
    assert np.isfinite(found).all()
    for copy in range(MEMBERS * GROUPS):
        rows = validation.subset(held_by(copy % MEMBERS, MEMBERS, len(validation)))
        assert found[copy] == pytest.approx(copies.score(rows)[0][copy], rel=1e-5)


def test_copies_that_have_parted_are_not_averaged() -> None:
    """Copies of one function, the hidden units of which are in another order."""
    task = clouds(plain)
    _, refitting = refitted(task)
    copies, validation = refitting.copies, task.splits.validation
    tensors = copies._population.tensors()
    for copy in (0, 2):
        tensors["0.weight"][copy] = tensors["0.weight"][copy].flip(0).clone() * 4.0
        tensors["0.bias"][copy] = tensors["0.bias"][copy].flip(0).clone() * 4.0
        tensors["2.weight"][copy] = tensors["2.weight"][copy].flip(1).clone() / 4.0
    tensors["2.bias"][0] += torch.tensor([-0.4, 0.0])  # not the best one
    alone = copies.score(validation)[0][:MEMBERS]
    assert alone.argmin() != 0
    test = task.splits.test
    assert test is not None
    right = copies.score(test)[1][int(alone.argmin())]
    assert refitting.deliver().accuracy[0] == pytest.approx(right)
    means = np.ones(len(copies), dtype=bool)
    average = _means(copies.present, MEMBERS, means).take(slice(0, 1))
    assert copies.losses(copies.outputs(validation, average), validation)[0] > 1.1 * np.median(alone)


def test_more_copies_than_folds_share_them() -> None:
    task = make_world(REGRESSION).task
    cohort, _ = play(task, members=10, groups=1)
    refitting = Refitting(cohort, 10, segments=2, seed=5)
    for segment in range(2):
        refitting.train(segment)
    copies, validation = refitting.copies, task.splits.validation
    said = torch.empty(1, *validation.targets.shape)
    for fold in range(8):
        chosen = np.arange(10) % 8 == fold
        rows = torch.arange(fold, len(validation), 8)
        said[:, rows] = copies.outputs(validation.subset(rows), _means(copies.present, 10, chosen))
    assert refitting.deliver().validation[0] == pytest.approx(copies.losses(said, validation)[0], rel=1e-5)
