"""A member trains on batches that its augmentation has changed, and on nothing else that is changed."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch

from raytune_rl.population.augmentations import noise
from raytune_rl.population.augmenting import Augmenter
from raytune_rl.population.torch_member import TorchMember
from tests.population.models import START, build

STILL = {"optimizer": "sgd", "learning_rate": 0.0, "batch_size": 120, "roles": {"a": "augmentation"}}
NOISY = {"augment": noise, "roles": {"a": "augmentation"}}


def weights(member: TorchMember) -> dict[str, Any]:
    network: dict[str, Any] = member.get_state()["network"]
    return network


def equal(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return all(np.array_equal(left[name], right[name]) for name in left)


def test_the_strength_reaches_training_batches_and_nothing_else() -> None:
    calls: list[tuple[tuple[int, ...], float]] = []

    def turned(inputs: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
        calls.append((tuple(inputs.shape), strength))
        return inputs.abs_()  # in place, which must not reach the data

    member = build(values={"a": 0.0}, augment=turned, **STILL)
    plain = member.train(2).metrics
    assert calls == []
    assert member.apply({"a": 0.5}) == {"a": 0.5}
    changed = member.train(2).metrics
    assert calls == [((120, 2), 0.5)] * 2
    assert changed["train_loss"] != pytest.approx(plain["train_loss"], rel=0.05)
    assert member.apply({"a": 0.0}) == {"a": 0.0}
    again = member.train(2).metrics
    assert len(calls) == 2 and again["train_loss"] == pytest.approx(plain["train_loss"], abs=1e-6)


def test_validation_and_test_see_what_is_there() -> None:
    def nothing(inputs: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
        return torch.zeros_like(inputs)

    blind, seeing = (build(values={"a": strength, "lr": 0.0}, augment=nothing, **STILL) for strength in (1.0, 0.0))
    for member in (blind, seeing):
        member.controls.network[1].momentum = 0.0  # type: ignore[union-attr, index]
    one, other = blind.train(1).metrics, seeing.train(1).metrics
    assert one["train_loss"] != other["train_loss"]
    assert one["validation_loss"] == other["validation_loss"]
    assert blind.task.test(blind.get_state()) == seeing.task.test(seeing.get_state())


def test_a_fixed_strength_needs_no_hyperparameter() -> None:
    member, other = build(augment=noise, augmentation=0.5), build()
    member.train(5)
    other.train(5)
    assert not equal(weights(member), weights(other))


def test_the_same_seed_gives_the_same_numbers_and_another_one_others() -> None:
    def moved(seed: int) -> TorchMember:
        member = build(values=START | {"a": 0.5}, seed=seed, **NOISY)
        for _ in range(3):
            member.train(4)
        return member

    before = torch.get_rng_state()
    assert equal(weights(moved(7)), weights(moved(7)))
    assert torch.equal(before, torch.get_rng_state())
    drawn = [build(values={"a": 0.5}, seed=seed, **NOISY).augmenter() for seed in (7, 7, 8)]
    batch = torch.randn(32, 2)
    one, same, other = (augmenter(batch) for augmenter in drawn if augmenter is not None)
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_a_snapshot_goes_on_bit_for_bit_and_a_copy_with_noise_of_its_own() -> None:
    member = build(values=START | {"a": 0.5}, **NOISY)
    member.train(9)
    state = pickle.loads(pickle.dumps(member.get_state()))
    expected = [member.train(9) for _ in range(2)]
    fresh = build(values=START | {"a": 0.0}, seed=1234, **NOISY)
    fresh.set_state(state)
    assert fresh.controls.augmentation == 0.5
    assert [fresh.train(9) for _ in range(2)] == expected
    assert equal(weights(fresh), weights(member))
    copy, donor = (build(values=START | {"a": 0.5}, member=i, seed=i, **NOISY) for i in (1, 2))
    copy.set_state(donor.get_state())
    batch = torch.randn(32, 2)
    one, two = copy.augmenter(), donor.augmenter()
    assert one is not None and two is not None and not torch.equal(one(batch), two(batch))


def test_every_segment_has_random_numbers_of_its_own() -> None:
    member = build(values={"a": 0.5}, **NOISY)
    batch, drawn = torch.randn(32, 2), []
    for _ in range(2):
        augmenter = member.augmenter()
        assert augmenter is not None
        drawn += [augmenter(batch), augmenter(batch)]
        member.train(3)
    assert len({tuple(found.flatten().tolist()) for found in drawn}) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[:, :1], r"given inputs \(4, 3\) float32 on cpu and must return such, not \(4, 1\) float32 on cpu"),
        (lambda x: x[:2], r"not \(2, 3\) float32"),
        (lambda x: x.double(), r"not \(4, 3\) float64"),
        (lambda x: x.numpy(), "must return the changed inputs as a tensor, not ndarray"),
        (lambda x: None, "not NoneType"),
    ],
)
def test_what_is_no_batch_is_refused_at_once(change: Any, message: str) -> None:
    augmenter = Augmenter(lambda inputs, strength, generator: change(inputs), 0.1, torch.Generator())
    with pytest.raises(ValueError, match=message) as refused:
        augmenter(torch.zeros(4, 3))
    assert "\n" not in str(refused.value)


def test_no_gradient_is_kept_of_what_an_augmentation_computes() -> None:
    scale = torch.ones(3, requires_grad=True)
    augmenter = Augmenter(lambda inputs, strength, generator: inputs * scale, 0.1, torch.Generator())
    assert not augmenter(torch.ones(4, 3)).requires_grad
