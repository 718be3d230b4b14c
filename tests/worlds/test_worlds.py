"""Generated tasks, cohorts and rollouts: repeatable, apart from one another, and driven by the real controller."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raytune_rl.controller.policies import PBT, Cosine
from raytune_rl.controller.tokens import TokenPolicy, initial_weights
from raytune_rl.worlds.cohort import Cohort, _accuracies, _losses
from raytune_rl.worlds.data import KINDS
from raytune_rl.worlds.generator import META_TRAIN, META_VALIDATION, make_world
from raytune_rl.worlds.rollout import Rollout, make_controller
from raytune_rl.worlds.samples import Samples
from tests.devices import DEVICES


def play(number: int, make_policy=PBT, *, groups: int = 2, seed: int = 0, device: str = "cpu"):
    world = make_world(number)
    cohort = Cohort(world.task, [m for _ in range(groups) for m in range(4)], seed=number, device=device)
    controllers = [
        make_controller(world.task, make_policy(), members=4, segments=6, seed=seed + g, copy_every=2)
        for g in range(groups)
    ]
    return Rollout(cohort, controllers, segments=6, tested=True).play()


def test_training_and_validation_tasks_do_not_meet() -> None:
    assert not set(META_VALIDATION) & set(META_TRAIN[-100:]) and META_VALIDATION[0] > META_TRAIN[-1]


def test_validation_tasks_have_no_tables_that_training_has() -> None:
    assert not any(make_world(number).task.name.startswith("real") for number in META_VALIDATION)
    assert any(make_world(number).task.name.startswith("real") for number in META_TRAIN[:60])


@pytest.mark.parametrize("number", range(12))
def test_a_number_is_a_task(number: int) -> None:
    one, two = make_world(number), make_world(number)
    assert one.task.name == two.task.name and one.segments == two.segments
    assert np.array_equal(one.task.splits.train.inputs, two.task.splits.train.inputs)
    assert one.task.space == two.task.space
    assert np.isfinite(one.task.splits.train.inputs.numpy()).all()
    rows = [len(split) for split in (one.task.splits.train, one.task.splits.validation, one.task.splits.test)]
    assert min(rows) >= 20


def test_tasks_differ_in_kind() -> None:
    tasks = [make_world(number).task for number in range(100)]
    assert {task.name.split("-")[0] for task in tasks} == set(KINDS)
    assert {task.optimizer for task in tasks} == {"sgd", "adam", "adamw"}


@pytest.mark.parametrize("device", DEVICES)
def test_a_rollout_repeats(device: str) -> None:
    first, second = play(3, device=device), play(3, device=device)
    for one, two in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.validation, two.validation)
        assert [s.decisions for s in one.steps] == [s.decisions for s in two.steps]


def test_populations_differ_by_their_decisions_only() -> None:
    same = play(3, Cosine, seed=5)
    alike = play(3, Cosine, seed=5)
    np.testing.assert_array_equal(same[0].test, alike[0].test)
    assert not np.array_equal(same[0].test, same[1].test)  # another seed, other starting values


def test_copies_carry_weights_over() -> None:
    played = play(8, lambda: PBT(quantile=0.5), groups=3)
    copies = [(p, s, m) for p in played for s in range(6) for m in range(4) if p.parent[s, m] != m]
    assert copies
    for p, segment, member in copies:
        donor, then = p.parent[segment, member], p.parent_segment[segment, member]
        assert p.validation[then, donor] <= p.validation[segment - 1, member]


@pytest.mark.parametrize("device", DEVICES)
def test_learning_happens(device: str) -> None:
    gains = []
    for number in range(6):
        played = play(number, lambda: TokenPolicy(initial_weights(0)), groups=1, device=device)[0]
        gains.append(played.test[0].min() - np.nanmin(played.test[-1]))
    assert np.median(gains) > 0.02


@pytest.mark.parametrize("device", DEVICES)
def test_a_narrowed_cohort_goes_on_from_where_its_members_are(device: str) -> None:
    task = make_world(3).task
    cohort = Cohort(task, range(6), seed=0, device=device)
    values = [task.space.decode([0.6] * len(task.space))] * 6
    cohort.apply(values)
    cohort.train()
    few = cohort.narrowed([4, 1])
    np.testing.assert_allclose(few.score(task.splits.test), np.array(cohort.score(task.splits.test))[:, [4, 1]])
    few.apply(values[:2])
    assert np.isfinite(few.train().validation_loss).all()


def test_weights_that_have_diverged_are_nobodys_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss too large to be told is as bad as none, and the member can go back to where it began."""
    task = make_world(3).task
    cohort = Cohort(task, range(3), seed=0)
    before = cohort.present.parameters.clone()
    cohort.apply([task.space.decode([0.6] * len(task.space))] * 3)
    monkeypatch.setattr(cohort, "losses", lambda outputs, split: np.array([0.5, np.inf, np.nan]))
    cohort.train()
    assert cohort.best[1].tolist() == [0.5, np.inf, np.inf]
    cohort.take(range(3), range(3), [True] * 3)
    same = (cohort.present.parameters == before).all(dim=1)
    assert same.tolist() == [False, True, True]


@pytest.mark.parametrize(("loss", "shape"), [("cross_entropy", (3, 8, 5)), ("mse", (3, 8, 1))])
def test_scores_are_torchs(loss: str, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(*shape, generator=generator)
    targets = torch.randint(5, (8,), generator=generator) if loss == "cross_entropy" else torch.randn(8, 1)
    losses, accuracy = _losses(loss, outputs, targets), _accuracies(loss, outputs, targets)
    theirs = torch.nn.CrossEntropyLoss() if loss == "cross_entropy" else torch.nn.MSELoss()
    torch.testing.assert_close(losses, torch.stack([theirs(each, targets) for each in outputs]))
    if loss == "cross_entropy":
        torch.testing.assert_close(accuracy, (outputs.argmax(-1) == targets).float().mean(1))
    assert loss == "cross_entropy" or accuracy.isnan().all()


def test_binary_scores_are_torchs() -> None:
    outputs, targets = torch.tensor([[[2.0], [-1.0]], [[-1.0], [3.0]]]), torch.tensor([[1.0], [1.0]])
    losses, accuracy = (judge("binary_cross_entropy", outputs, targets) for judge in (_losses, _accuracies))
    theirs = torch.nn.BCEWithLogitsLoss()
    torch.testing.assert_close(losses, torch.stack([theirs(each, targets) for each in outputs]))
    assert accuracy.tolist() == [0.5, 0.5]


@pytest.mark.parametrize("number", [3, 0])
def test_the_ensemble_is_judged_by_validation_and_told_for_the_test_split(number: int) -> None:
    world = make_world(number)
    cohort = Cohort(world.task, [0, 1, 2, 3] * 2, seed=number)
    controllers = [
        make_controller(world.task, Cosine(), members=4, segments=4, seed=seed, ensemble=True) for seed in range(2)
    ]
    for played in Rollout(cohort, controllers, segments=4, tested=True).play():
        best = played.test[-1].min()
        assert np.isfinite(played.ensemble).all() and played.ensemble[-1] > -np.log(best + 0.02) - 0.5
        assert (played.contribution[-1] != 0).any()
        told = played.steps[-1].reports
        assert len({report.metrics["ensemble_loss"] for report in told}) == 1
        assert all(report.predictions is None for report in told)
    assert make_controller(world.task, Cosine(), members=4, segments=4, seed=0).evaluation_targets is None


def test_who_predicts_nan_has_no_part_in_the_ensemble() -> None:
    samples = Samples.of(make_world(3).task)
    rows, classes = len(samples.validation.rows), 10
    shares = np.full((3, rows, classes), 1 / classes, dtype=np.float32)
    shares[1] = np.nan
    held_out = np.full((3, len(samples.test.rows), classes), 1 / classes, dtype=np.float32)
    contribution, score = samples.judge(shares, held_out)
    assert contribution[1] == 0.0 and score == pytest.approx(-np.log(np.log(classes) + 0.02), rel=1e-4)
    contribution, score = samples.judge(np.full_like(shares, np.nan), held_out)
    assert not contribution.any() and np.isnan(score)


def test_asking_all_policies_at_once_changes_no_decision() -> None:
    weights = initial_weights(1)
    together = play(3, lambda: TokenPolicy(weights), groups=3)
    apart = play(3, lambda: TokenPolicy({name: value.copy() for name, value in weights.items()}), groups=3)
    for one, other in zip(together, apart, strict=True):
        actions = [[[d.action for d in step.decisions] for step in played.steps] for played in (one, other)]
        assert actions[0] == actions[1]
        np.testing.assert_allclose(one.validation, other.validation)
