"""Settings are prepared for a step once, and again when one of them was written."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from raytune_rl.population.packed.settings import Settings, SettingsCache

ALL = slice(0, 2)
NONE_FIXED = torch.tensor([False, False])


def settings() -> Settings:
    return Settings.defaults(torch.zeros(2, 1))


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Settings)])
def test_a_setting_that_was_written_is_noticed(name: str) -> None:
    own = settings()
    cache = SettingsCache(own, torch.tensor([0, 1]), NONE_FIXED)
    prepared = cache.of(ALL)
    assert cache.of(ALL) is prepared
    getattr(own, name)[1] = 1
    assert cache.of(ALL) is not prepared


def test_what_is_zero_for_all_members_is_left_out() -> None:
    own = settings()
    cache = SettingsCache(own, torch.tensor([0, 1]), NONE_FIXED)
    prepared = cache.of(ALL)
    assert prepared.label_smoothing is prepared.grad_clip is prepared.dropout is None
    assert prepared.optimizer.weight_decay is prepared.optimizer.trainable is None
    assert prepared.optimizer.shared_momentum == pytest.approx(0.9)
    own.momentum[1] = 0.0
    own.grad_clip[1] = 2.0
    own.dropout[1] = 0.75
    prepared = cache.of(ALL)
    assert prepared.optimizer.shared_momentum is None
    assert (prepared.optimizer.any_momentum, prepared.optimizer.all_momentum) == (True, False)
    assert prepared.grad_clip is not None and prepared.grad_clip.tolist() == [0.0, 2.0]
    assert prepared.dropout is not None and prepared.dropout.scale.tolist() == [[1.0], [4.0]]
    assert cache.of(slice(0, 1)).grad_clip is None


def test_the_last_layer_always_trains() -> None:
    own = settings()
    own.frozen_layers.copy_(torch.tensor([1, 5]))
    trainable = SettingsCache(own, torch.tensor([0, 0, 1]), torch.zeros(3, dtype=torch.bool)).trainable()
    assert trainable.tolist() == [[False, False, True], [False, False, True]]


def test_fixed_parameters_train_in_no_member() -> None:
    own = settings()
    own.frozen_layers.copy_(torch.tensor([1, 0]))
    cache = SettingsCache(own, torch.tensor([0, 1, 1]), torch.tensor([False, True, False]))
    assert cache.trainable().tolist() == [[False, False, True], [True, False, True]]
    prepared = cache.of(slice(1, 2))  # a member whose layers all train
    assert prepared.optimizer.trainable is not None and prepared.optimizer.trainable.tolist() == [[True, False, True]]
