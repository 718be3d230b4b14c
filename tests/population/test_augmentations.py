"""What the ready-made augmentations do to a batch."""

from __future__ import annotations

import math

import pytest
import torch

from raytune_rl.population.augmentations import Augment, noise, shift
from tests.devices import needs_gpu


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=generator(1)) + 0.5


@pytest.mark.parametrize("augment", [noise, shift])
def test_all_randomness_is_the_generators_and_the_inputs_stay(augment: Augment) -> None:
    inputs = images(16, 1, 8, 8)
    given, before = inputs.clone(), torch.get_rng_state()
    first = augment(inputs, 0.5, generator())
    assert torch.equal(first, augment(inputs, 0.5, generator()))
    assert not torch.equal(first, augment(inputs, 0.5, generator(5)))
    assert first.shape == inputs.shape and first.dtype == inputs.dtype
    assert torch.equal(torch.get_rng_state(), before) and torch.equal(inputs, given)


@needs_gpu
@pytest.mark.parametrize("augment", [noise, shift])
def test_they_work_where_a_member_trains(augment: Augment) -> None:
    inputs = images(16, 1, 8, 8).cuda()
    first, again = (augment(inputs, 0.5, torch.Generator("cuda").manual_seed(3)) for _ in range(2))
    assert first.device == inputs.device and torch.equal(first, again) and not torch.equal(first, inputs)


def test_noise_is_in_units_of_each_inputs_spread() -> None:
    scales = torch.tensor([1.0, 1000.0, 0.0])
    inputs = torch.randn(20_000, 3, generator=generator(1)) * scales + 7.0
    added = noise(inputs, 0.3, generator()) - inputs
    assert added.mean(dim=0) / scales.clamp(min=1.0) == pytest.approx([0, 0, 0], abs=0.01)
    assert added.std(dim=0).tolist() == pytest.approx([0.3, 300.0, 0.0], rel=0.03)
    assert torch.equal(noise(inputs[:1], 0.3, generator()), inputs[:1]), "one example has no spread"


def test_noise_is_refused_where_inputs_are_numbers_of_things() -> None:
    with pytest.raises(ValueError, match=r"inputs that are floats, not torch\.int64"):
        noise(torch.zeros(4, 3, dtype=torch.int64), 0.1, generator())


def moved(image: torch.Tensor, down: int, right: int) -> torch.Tensor:
    """``image`` (..., H, W) pushed pixel by pixel."""
    height, width = image.shape[-2:]
    found = torch.zeros_like(image)
    for row in range(height):
        for column in range(width):
            if 0 <= row - down < height and 0 <= column - right < width:
                found[..., row, column] = image[..., row - down, column - right]
    return found


@pytest.mark.parametrize("shape", [(30, 6, 9), (30, 1, 6, 9), (30, 2, 3, 6, 9)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_shift_moves_every_image_by_a_pair_of_its_own_within_bounds(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    inputs = (100 * images(*shape)).to(dtype)
    found = shift(inputs, 0.3, generator())
    tall, wide = math.ceil(0.3 * 6), math.ceil(0.3 * 9)
    pairs = [(down, right) for down in range(-tall, tall + 1) for right in range(-wide, wide + 1)]
    drawn = []
    for before, after in zip(inputs, found, strict=True):
        matching = [pair for pair in pairs if torch.equal(moved(before, *pair), after)]
        assert len(matching) == 1
        drawn += matching
    assert len(set(drawn)) > 10


def test_shift_is_uniform_up_to_its_bound_and_acts_below_a_pixel() -> None:
    count, size = 20_000, 11
    inputs = torch.zeros(count, 1, size, size)
    inputs[:, :, 5, 5] = 1.0
    for strength in (0.02, 3 / size):
        found = shift(inputs, strength, generator())
        place = found.flatten(1).argmax(dim=1)
        for moves in (place // size - 5, place % size - 5):
            # a uniform move in [-m, m], rounded up or down without bias
            m = strength * size
            assert float(moves.double().mean()) == pytest.approx(0.0, abs=0.05)
            assert int(moves.abs().max()) == math.ceil(m)
            if m < 1:
                assert float((moves != 0).double().mean()) == pytest.approx(m / 2, abs=0.02)


def test_shift_is_refused_where_there_are_no_images() -> None:
    with pytest.raises(ValueError, match=r"for images \(B, ..., H, W\), not for inputs of shape \(4, 64\)"):
        shift(torch.zeros(4, 64), 0.1, generator())
