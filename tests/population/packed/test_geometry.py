"""Index arithmetic of convolution windows."""

from __future__ import annotations

import itertools

import pytest
import torch

from raytune_rl.population.packed.geometry import Geometry


@pytest.mark.parametrize("size", [1, 4, 7])
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "padding"),
    [found for found in itertools.product([1, 3], [1, 2, 3], [1, 2], [0, 1, 4]) if found[0] == 3 or found[2] == 1],
)
def test_tap_slices_select_what_im2col_gives(size: int, kernel: int, stride: int, dilation: int, padding: int) -> None:
    geometry = Geometry((kernel, 2), (stride, 1), (dilation, 1), (padding, 1))
    inputs = torch.arange(1.0, 1 + size * 3 * 2).view(size, 3, 2)
    if size + 2 * padding < dilation * (kernel - 1) + 1:
        with pytest.raises(ValueError, match="has no room in inputs of"):
            geometry.im2col(inputs)
        return
    columns = geometry.im2col(inputs)
    found = torch.zeros_like(columns)
    for (inside, positions), part in zip(geometry.tap_slices([size, 3]), found, strict=True):
        part[positions] = inputs[inside]
    assert torch.equal(found, columns)
    assert columns.shape[0] == geometry.taps
