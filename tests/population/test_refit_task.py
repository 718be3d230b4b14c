"""Copies for a refit: they train on everything but the validation rows that they hold out."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from raytune_rl.population.candidate import Candidate, MemberContext, Packable
from raytune_rl.population.cross_fitting import held_by, pooled
from raytune_rl.population.packed.members import TorchPack
from raytune_rl.population.refit_task import Refit, RefitMember
from raytune_rl.population.splits import CPU, load_splits
from tests.population.models import START, TASK, blobs, build, mlp

TRAIN, VALIDATION = 120, 60


def model() -> dict[str, Any]:
    """A trained one."""
    one = build()
    one.train(20)
    return one.get_state()


def refit(copies: int = 4, **changes: Any) -> Refit:
    return Refit.of(dataclasses.replace(TASK, **changes), model(), copies=copies)


def copy(of: Refit, member: int = 0) -> RefitMember:
    made = of.build(MemberContext(member=member, seed=7 + member), START)
    assert isinstance(made, RefitMember)
    return made


def test_a_copy_begins_with_the_models_weights_and_a_fresh_optimiser() -> None:
    of = refit(predictions=True)
    assert isinstance(of, Candidate) and isinstance(of, Packable) and isinstance(of.pack(), TorchPack)
    assert of.optimizer == TASK.optimizer and not of.task.predictions
    one = copy(of)
    for name, value in one.controls.network.state_dict().items():
        torch.testing.assert_close(value, torch.tensor(of.state["network"][name]))
    assert not one.controls.optimizer.state_dict()["state"]


def test_a_copy_sees_all_rows_but_its_own_in_every_epoch() -> None:
    one = copy(refit(), member=1)
    drawn = [one.batches.indices(TRAIN + VALIDATION - 15) for _ in range(2)]
    held = TRAIN + held_by(1, 4, VALIDATION)
    for epoch in drawn:
        assert len(set(epoch.tolist())) == TRAIN + VALIDATION - 15
        assert not set(epoch.tolist()) & set(held.tolist())
    assert not torch.equal(*drawn)
    together = pooled(load_splits(blobs, CPU))
    inputs, targets = one.batches.rows(held)
    torch.testing.assert_close(inputs, together.inputs[held])
    torch.testing.assert_close(inputs, torch.tensor(blobs()[1][0], dtype=torch.float32)[1::4])
    assert torch.equal(targets, torch.tensor(blobs()[1][1])[1::4])


def test_it_is_judged_by_the_rows_that_it_holds_out_and_by_the_loss_alone() -> None:
    one = copy(refit(metrics={"auc": lambda outputs, targets: 1 / 0}), member=2)
    found = one.train(5)
    inputs, targets = (torch.tensor(part)[2::4] for part in blobs()[1])
    with torch.no_grad():
        loss = TASK.loss(one.controls.network.eval()(inputs.float()), targets)
    assert set(found.metrics) == {"validation_loss", "train_loss", "all_rows_loss"}
    whole = torch.tensor(blobs()[1][0]).float(), torch.tensor(blobs()[1][1])
    with torch.no_grad():
        everywhere = TASK.loss(one.controls.network(whole[0]), whole[1])
    assert found.metrics["all_rows_loss"] == pytest.approx(float(everywhere), rel=1e-5)
    assert one.get_state()["metrics"] == found.metrics
    assert found.metrics["validation_loss"] == pytest.approx(float(loss), rel=1e-5)


def test_it_goes_on_from_a_snapshot_bit_for_bit() -> None:
    of = refit()
    through, killed = copy(of, 3), copy(of, 3)
    through.train(6)
    killed.train(6)
    state = killed.get_state()
    again = copy(of, 3)
    again.set_state(state)
    assert through.train(6).metrics == again.train(6).metrics
    for name, value in through.controls.network.state_dict().items():
        assert torch.equal(value, again.controls.network.state_dict()[name]), name


def test_packed_copies_are_what_they_would_be_alone() -> None:
    def plain(dropout: float = 0.0) -> nn.Module:
        return nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))

    task = dataclasses.replace(TASK, network=plain)
    values = {"lr": 0.01, "batch_size": 32}
    state = build(task, values).get_state()
    of = Refit.of(task, state, copies=4)
    alone = [of.build(MemberContext(member=m, seed=m), values) for m in range(4)]
    together = [of.build(MemberContext(member=m, seed=m), values) for m in range(4)]
    pack = TorchPack()
    found = pack.train(together, 10)
    assert pack.reason is None
    for one, two in zip((member.train(10) for member in alone), found, strict=True):
        assert two is not None
        assert two.metrics == pytest.approx(one.metrics, rel=1e-4)


def test_a_lone_copy_holds_out_half() -> None:
    of = refit(copies=1, network=mlp)
    assert len(held_by(0, 1, VALIDATION)) == 30
    assert np.isfinite(copy(of).train(3).metrics["validation_loss"])


def test_a_copy_that_has_collapsed_says_that_it_has_diverged() -> None:
    one = copy(refit())
    assert np.isfinite(one.train(3).metrics["validation_loss"])
    one.apply(START | {"lr": 5.0})
    found = one.train(10)
    assert np.isnan(found.metrics["validation_loss"]) and np.isfinite(found.metrics["train_loss"])


@pytest.mark.parametrize(("everywhere", "diverged"), [(100.0, True), (None, False)])
def test_all_validation_rows_tell_whether_a_copy_has_collapsed(
    everywhere: float | None, diverged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The few that it holds out may lack what it fails at, or be the hardest."""
    one = copy(refit(), 1)
    first = one._first_loss
    monkeypatch.setattr(one, "_loss_on_all_rows", lambda: everywhere or first)
    if not diverged:
        one._validation = dataclasses.replace(one._validation, targets=(one._validation.targets + 1) % 3)
    found = one.train(3).metrics
    assert np.isnan(found["validation_loss"]) == diverged and found["all_rows_loss"] == (everywhere or first)
    assert diverged or found["validation_loss"] > 2 * first


def test_a_part_without_answers_is_no_divergence() -> None:
    train, validation, test = blobs()
    targets = validation[1].copy()
    targets[1::4] = -100  # what the cross entropy ignores: all that copy 1 holds out

    def unlabelled() -> Any:
        return train, (validation[0], targets), test

    found = copy(refit(data=unlabelled), 1).train(3)
    assert found.metrics["validation_loss"] == found.metrics["all_rows_loss"] and np.isfinite(
        found.metrics["validation_loss"]
    )


def test_a_batch_holds_no_row_twice() -> None:
    one = copy(refit(), 1)
    one.apply(START | {"batch_size": 10_000})
    assert one.controls.batch_size == TRAIN + VALIDATION - 15
