from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from raytune_rl.population.splits import Batches, Split, load_splits

CPU = torch.device("cpu")
GOOD = (np.zeros((6, 2)), np.zeros(6, dtype=int))


def test_arrays_tensors_and_datasets_are_taken() -> None:
    data = TensorDataset(torch.ones(4, 2), torch.arange(4))
    splits = load_splits(lambda: (GOOD, data, (torch.ones(3, 2, dtype=torch.float64), np.ones(3, dtype=bool))), CPU)
    assert splits.train.inputs.dtype == torch.float32 and splits.train.targets.dtype == torch.int64
    assert splits.validation.inputs.shape == (4, 2) and splits.validation.targets.tolist() == [0, 1, 2, 3]
    assert splits.test is not None and splits.test.targets.dtype == torch.float32


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_all_floats_become_float32(dtype: Any) -> None:
    splits = load_splits(lambda: ((np.zeros((6, 2), dtype=dtype), GOOD[1]), GOOD, None), CPU)
    assert splits.train.inputs.dtype == torch.float32


def test_read_only_arrays_are_taken_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    inputs = np.zeros((6, 2))
    inputs.flags.writeable = False
    load_splits(lambda: ((inputs, GOOD[1]), GOOD, None), CPU)
    assert not recwarn.list


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((GOOD, GOOD), r"must return \(train, validation, test\), not tuple of length 2"),
        ((GOOD, GOOD[0], None), "validation split must"),
        (((GOOD[0], np.zeros(5)), GOOD, None), "train split must hold as many inputs as targets .* not 6 and 5"),
        (((GOOD[0][:0], GOOD[1][:0]), GOOD, None), "at least one, not 0 and 0"),
        ((GOOD, (np.zeros((6, 3)), GOOD[1]), None), r"validation split have shape \(3,\) per example, .* \(2,\)"),
        (((np.array(["a"] * 6), GOOD[1]), GOOD, None), "inputs of the train split must be an array of numbers"),
        (((1.0, 2.0), GOOD, None), "one row per example"),
        ((GOOD, [(torch.ones(2), 1), (torch.ones(3), 1), (torch.ones(3), 1)], None), "must be a pair"),
    ],
)
def test_wrong_data_is_named(data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_splits(lambda: data, CPU)


def test_a_dataset_that_cannot_be_stacked_is_named() -> None:
    class Ragged:
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> Any:
            return torch.ones(index + 1), 0

    with pytest.raises(ValueError, match="train split cannot be stacked"):
        load_splits(lambda: (Ragged(), GOOD, None), CPU)


def test_every_epoch_holds_each_example_once_whatever_the_batch_size() -> None:
    split = Split(inputs=torch.arange(10), targets=torch.arange(10))
    batches = Batches(split, seed=3, device=CPU)
    seen = torch.cat([batches.take(size)[0] for size in (3, 4, 4, 10, 9)])
    epochs = seen.reshape(3, 10).tolist()
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_the_count_of_examples_says_what_comes_next() -> None:
    split = Split(inputs=torch.arange(10), targets=torch.arange(10))
    one, two = Batches(split, seed=3, device=CPU), Batches(split, seed=3, device=CPU)
    for _ in range(7):
        one.take(3)
    two.examples = one.examples
    assert one.take(4)[0].tolist() == two.take(4)[0].tolist()
    other = Batches(split, seed=4, device=CPU)
    assert other.take(10)[0].tolist() != Batches(split, seed=3, device=CPU).take(10)[0].tolist()
