"""What a population would deliver: on validation no worse than its best checkpoint, and training does not notice."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from raytune_rl.combining.calibration import calibration_of
from raytune_rl.population.calibrating import calibrated
from raytune_rl.population.packed.losses import LossName
from raytune_rl.population.splits import Split, Splits
from raytune_rl.worlds.cohort import Cohort
from raytune_rl.worlds.delivery import deliver
from raytune_rl.worlds.generator import make_world
from raytune_rl.worlds.real import study_space
from raytune_rl.worlds.task import WorldTask
from tests.devices import DEVICES

LINEAR, RECURRENT, CONVOLUTION, REGRESSION = 3, 24, 8, 2
"""Numbers of generated worlds."""


def clouds(network: Callable[[], nn.Module], *, loss: LossName = "cross_entropy", rows: int = 40) -> WorldTask:
    """Two clouds of points in a plane that overlap; for the binary loss two questions about each point."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.arange(3 * rows) % 2
    inputs = torch.randn(3 * rows, 2, generator=generator) + classes[:, None]
    targets = classes if loss == "cross_entropy" else torch.stack([classes, inputs[:, 0] > 1.0], dim=1).float()
    parts = [Split(inputs=inputs[first::3], targets=targets[first::3]) for first in range(3)]
    return WorldTask(
        name="clouds",
        splits=Splits(train=parts[0], validation=parts[1], test=parts[2]),
        network=network,
        loss=loss,
        optimizer="adam",
        batch_size=10,
        segment_length=5,
        space=study_space(smoothing=loss == "cross_entropy"),
    )


def normalised() -> nn.Module:
    """With running statistics, which are averaged, and a count, which is not."""
    return nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2))


def setting(task: WorldTask, rate: float) -> dict[str, float]:
    """Of a member: the learning rate at this place of the space, and what is in the middle of everything else."""
    return task.space.decode([rate if name == "learning_rate" else 0.4 for name in task.space.names])


def play(
    task: WorldTask,
    *,
    members: int = 4,
    groups: int = 2,
    segments: int = 5,
    each: Callable[[Cohort], object] = lambda cohort: None,
    rates: tuple[float, float] = (0.7, 0.95),
    device: str = "cpu",
) -> tuple[Cohort, np.ndarray]:
    """A cohort of populations whose members copy, each from the best of its own; and all losses, (segments, K)."""
    cohort = Cohort(task, list(range(members)) * groups, seed=3, device=device)
    positions = np.tile(np.linspace(*rates, members), groups) + np.repeat(np.linspace(0.0, 0.05, groups), members)
    losses = []
    for segment in range(segments):
        cohort.apply([setting(task, rate) for rate in positions])
        losses.append(cohort.train().validation_loss)
        each(cohort)
        by_group = np.nan_to_num(losses[-1], nan=np.inf).reshape(groups, members)
        offsets = members * np.arange(groups)
        targets, sources = by_group.argmax(axis=1) + offsets, by_group.argmin(axis=1) + offsets
        cohort.take(targets.tolist(), sources.tolist(), [segment % 2 == 0] * groups)
    return cohort, np.stack(losses)


@pytest.mark.parametrize("number", [LINEAR, RECURRENT, CONVOLUTION, REGRESSION])
@pytest.mark.parametrize("device", DEVICES)
def test_it_is_no_worse_than_the_best_checkpoint_and_better_somewhere(number: int, device: str) -> None:
    task = make_world(number).task
    cohort, losses = play(task, device=device)
    found = deliver(cohort, 4)
    best = np.nanmin(losses.reshape(-1, 2, 4), axis=(0, 2))
    assert found.validation.shape == found.test.shape == found.accuracy.shape == (2,)
    assert (found.validation <= best * (1.0 + 1e-5)).all() and (found.validation < best - 1e-3).any()
    assert np.isfinite(found.test).all()
    assert (
        np.isnan(found.accuracy).all() if task.loss == "mse" else ((found.accuracy >= 0) & (found.accuracy <= 1)).all()
    )


@pytest.mark.parametrize(
    "task",
    [
        make_world(LINEAR).task,
        make_world(RECURRENT).task,
        make_world(CONVOLUTION).task,
        clouds(normalised),
        clouds(plain, loss="binary_cross_entropy"),
    ],
    ids=["linear", "recurrent", "convolution", "batch norm", "binary"],
)
def test_training_goes_on_as_if_nobody_had_asked(task: WorldTask) -> None:
    asked: list[object] = []
    (without, plain_losses), (beside, losses) = play(task), play(task, each=lambda c: asked.append(deliver(c, 4)))
    assert len(asked) == 5
    np.testing.assert_array_equal(losses, plain_losses)
    for one, two in zip(
        without._population.snapshot().tensors() + without._best.tensors(),
        beside._population.snapshot().tensors() + beside._best.tensors(),
        strict=True,
    ):
        assert torch.equal(one, two)
    np.testing.assert_array_equal(without.train().validation_loss, beside.train().validation_loss)


def test_the_model_is_the_average_that_a_network_of_its_own_would_be() -> None:
    """Of two members with opposite errors half of each is taken: what that network says, without a pack."""
    task = clouds(lambda: nn.Sequential(nn.Linear(2, 2)))
    cohort = Cohort(task, [0, 1], seed=0)
    cohort.apply([setting(task, 0.0)] * 2)  # the smallest rate: hardly any training
    wanted = torch.tensor([[-0.2, -0.2], [0.2, 0.2]]), torch.tensor([0.2, -0.2])
    apart = torch.tensor([[3.0, -3.0], [-3.0, 3.0]])  # across the direction in which the classes lie
    tensors = cohort._population.tensors()
    for member, sign in enumerate((1.0, -1.0)):
        tensors["0.weight"][member] = wanted[0] + sign * apart
        tensors["0.bias"][member] = wanted[1]
    present = cohort.train().validation_loss
    network = nn.Sequential(nn.Linear(2, 2))
    network.load_state_dict({name: value.mean(dim=0) for name, value in cohort._population.tensors().items()})
    validation, test = task.splits.validation, task.splits.test
    assert test is not None
    with torch.no_grad():
        said = [network(split.inputs) for split in (validation, test)]
    answers = (validation.targets, test.targets)
    calibration = calibration_of(said[0].softmax(dim=1).double().numpy(), answers[0].numpy())
    assert calibration.temperature != 1.0
    said = [calibrated(outputs, calibration, binary=False) for outputs in said]
    theirs = [float(nn.functional.cross_entropy(*pair)) for pair in zip(said, answers, strict=True)]
    found = deliver(cohort, 2)
    assert theirs[0] < present.min()
    assert [found.validation[0], found.test[0]] == pytest.approx(theirs, abs=1e-6)
    assert found.accuracy[0] == pytest.approx(float((said[1].argmax(dim=1) == test.targets).float().mean()))


def test_a_model_that_is_too_sure_is_made_less_so_and_answers_alike() -> None:
    def sure() -> nn.Module:
        network = plain()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(6.0)
        return network

    task = clouds(sure)
    cohort, losses = play(task, members=1, groups=3, segments=1, rates=(0.0, 0.0))  # next to no training
    found = deliver(cohort, 1)
    assert (found.validation < 1.0).all() and (losses[0] > 2.0).all()
    _, accuracy = cohort.score(task.splits.test)
    np.testing.assert_array_equal(found.accuracy, accuracy)


def test_the_diverged_have_no_part_in_it() -> None:
    task = clouds(normalised)
    cohort, _ = play(task)
    sound = deliver(cohort, 4)
    for name, value in cohort.present.buffers.items():
        value[[1, 2]] = float("nan") if value.is_floating_point() else 10**6
        assert name.startswith("1.")
    cohort.present.parameters[[1, 2]] = float("nan")
    found = deliver(cohort, 4)
    best = cohort.best[1].reshape(2, 4).min(axis=1)
    assert (found.validation <= best * (1 + 1e-5)).all() and np.isfinite(found.test).all()
    assert found.validation[1] == sound.validation[1]


def test_a_population_that_is_lost_from_the_start_delivers_nothing_that_counts() -> None:
    task = clouds(plain)
    cohort = Cohort(task, range(6), seed=0)
    cohort.present.parameters[:3] = float("nan")
    cohort.apply([setting(task, 0.5)] * 6)
    cohort.train()
    found = deliver(cohort, 3)
    assert np.isinf(found.validation).tolist() == np.isinf(found.test).tolist() == [True, False]


def test_a_population_of_one_has_its_best_and_its_present() -> None:
    task = make_world(CONVOLUTION).task
    cohort, losses = play(task, members=1, groups=1)
    found = deliver(cohort, 1)
    assert found.validation.shape == (1,) and found.validation[0] <= losses.min() + 1e-6
