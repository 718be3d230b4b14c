"""What happens inside a running Trainable's actor, tried on instances in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray import tune

from raytune_rl.tune import trainable
from raytune_rl.tune.adapter import homeless
from raytune_rl.tune.trials import actor
from tests.tune.trainables import BreaksOnLoad, Counter, InFiles, Overwriting, Rebuilding, Refusing


@pytest.fixture(autouse=True)
def fresh_orders() -> Iterator[None]:
    trainable._orders.clear()
    yield
    trainable._orders.clear()


def trained(cls: type[tune.Trainable], lr: float, steps: int = 3) -> Any:
    instance = homeless(cls)(config={"lr": lr})
    for _ in range(steps):
        instance.train()
    return instance


def copied(donor: Any, receiver: Any, lr: float, monkeypatch: pytest.MonkeyPatch) -> actor.Outcome:
    weights = actor.export(donor)
    monkeypatch.setattr(actor.ray, "get", lambda ref: ref)
    return actor.reconfigure(receiver, {"lr": lr}, [weights])  # type: ignore[list-item]


@pytest.mark.parametrize("cls", [Counter, Rebuilding, InFiles, Overwriting])
def test_a_change_keeps_what_has_been_trained(cls: type[tune.Trainable]) -> None:
    instance = trained(cls, lr=0.1)
    outcome = actor.reconfigure(instance, {"lr": 2.0}, None)
    assert outcome.done
    assert outcome.config == {"lr": 2.0}
    result = instance.train()
    assert result["total"] == pytest.approx(0.3 + 2.0)
    assert (result["training_iteration"], result["config"]) == (4, {"lr": 2.0})


@pytest.mark.parametrize("cls", [Counter, Rebuilding, InFiles, Overwriting])
def test_a_copy_brings_weights_but_neither_values_nor_counters(
    cls: type[tune.Trainable], monkeypatch: pytest.MonkeyPatch
) -> None:
    donor, receiver = trained(cls, lr=1.0, steps=7), trained(cls, lr=0.1)
    assert copied(donor, receiver, 0.5, monkeypatch).done
    result = receiver.train()
    assert result["total"] == pytest.approx(7.0 + 0.5)
    assert (result["training_iteration"], result["lr_used"]) == (4, 0.5)
    assert donor.train()["total"] == pytest.approx(8.0)  # nothing is shared


def test_a_refusal_changes_nothing() -> None:
    instance = trained(Refusing, lr=0.1)
    outcome = actor.reconfigure(instance, {"lr": 2.0}, None)
    assert (outcome.done, outcome.unsupported, outcome.broken) == (False, True, False)
    assert instance.train()["total"] == pytest.approx(0.4)
    assert instance.config == {"lr": 0.1}


def test_a_dead_donor_does_not_harm_the_receiver(monkeypatch: pytest.MonkeyPatch) -> None:
    def dead(ref: object) -> None:
        raise RuntimeError("the donor died")

    instance = trained(Counter, lr=0.1)
    monkeypatch.setattr(actor.ray, "get", dead)
    outcome = actor.reconfigure(instance, {"lr": 2.0}, ["ref"])  # type: ignore[list-item]
    assert (outcome.done, outcome.broken) == (False, False)
    assert "the donor died" in outcome.error
    assert instance.train()["total"] == pytest.approx(0.4)


def test_a_checkpoint_that_is_gone_does_not_harm_the_receiver(tmp_path: Path) -> None:
    instance = trained(Counter, lr=0.1)
    outcome = actor.reconfigure(instance, {"lr": 2.0}, tune.Checkpoint(str(tmp_path / "gone")))
    assert not outcome.done
    assert not outcome.broken
    assert instance.train()["total"] == pytest.approx(0.4)


def test_weights_can_come_from_a_checkpoint_in_storage(tmp_path: Path) -> None:
    for cls in (Counter, InFiles):
        donor, receiver = trained(cls, lr=1.0, steps=5), trained(cls, lr=0.1)
        directory = tmp_path / cls.__name__
        donor.save(str(directory))
        assert actor.reconfigure(receiver, {"lr": 0.5}, tune.Checkpoint(str(directory))).done
        assert receiver.train()["total"] == pytest.approx(5.5)


def test_code_that_raises_half_way_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = copied(trained(BreaksOnLoad, lr=1.0), trained(BreaksOnLoad, lr=0.1), 0.5, monkeypatch)
    assert outcome.broken
    assert "the weights do not fit" in outcome.error
