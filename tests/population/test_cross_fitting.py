"""Which rows each copy holds out, what can be pooled, and when copies have failed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raytune_rl.population.cross_fitting import FOLDS, collapsed, drifted_apart, folds_of, held_by, pooled
from raytune_rl.population.splits import CPU, load_splits
from tests.population.models import blobs


@given(st.integers(1, 100), st.integers(2, 200))
def test_every_row_is_held_out_by_some_copy_and_no_copy_does_without_most_of_them(copies: int, rows: int) -> None:
    held = [held_by(one, copies, rows) for one in range(copies)]
    folds = folds_of(copies, rows)
    assert 2 <= folds <= FOLDS
    assert all(1 <= len(one) <= -(-rows // folds) for one in held)
    assert all(torch.equal(held[one], held[one % folds]) for one in range(copies))
    assert rows < 4 or folds <= rows // 2
    if copies >= folds:
        assert sorted(torch.cat(held[:folds]).tolist()) == list(range(rows))


def test_what_cannot_be_put_together_is_refused() -> None:
    train, validation, test = blobs()

    def three_rows() -> Any:
        return train, (validation[0][:3], validation[1][:3]), test

    def counts() -> Any:
        return (train[0].round().astype(int), train[1]), validation, test

    def soft() -> Any:
        return train, (validation[0], np.eye(3)[validation[1]]), test

    with pytest.raises(ValueError, match="validation has 3 rows, and a refit needs at least 4"):
        pooled(load_splits(three_rows, CPU))
    with pytest.raises(ValueError, match=r"inputs of the train split are int64 .* validation float32"):
        pooled(load_splits(counts, CPU))
    with pytest.raises(ValueError, match=r"train split are int64 .* validation float32 of shape \(3,\)"):
        pooled(load_splits(soft, CPU))


@pytest.mark.parametrize(
    ("average", "alone", "expected"),
    [
        (0.5, [0.6, 0.5, 0.55], False),
        (0.58, [0.5, 0.5], True),
        (0.53, [0.5, 0.5], False),
        (float("nan"), [0.5, 0.6], True),
        (float("nan"), [float("nan"), 0.6], True),
        (-2.95, [-2.9, -3.0], False),
        (-2.8, [-2.9, -3.0], True),
        (0.5, [0.4, 0.5, 9.0], False),
        (0.6, [0.4, 0.5, 9.0], True),
    ],
)
def test_copies_have_drifted_apart_if_their_average_is_worse_than_they_are(
    average: float, alone: list[float], expected: bool
) -> None:
    assert drifted_apart(average, alone) is expected


def test_a_refit_is_given_up_at_twice_the_loss() -> None:
    assert not collapsed(0.5, 0.3) and not collapsed(0.015, 1e-9) and not collapsed(-1.5, -4.0)
    assert collapsed(0.7, 0.3) and collapsed(float("nan"), 0.3) and collapsed(float("inf"), 5.0)
