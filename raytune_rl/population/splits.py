"""Train, validation and test data of a torch task: accepted in common forms, checked, held as tensors, and batched."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import torch

from raytune_rl.population.randomness import permutation

DataSource: TypeAlias = Callable[[], tuple[Any, Any, Any]]
"""Returns (train, validation, test). Each is a pair (inputs, targets) of numpy arrays or tensors with one row per
example, or a torch ``Dataset`` of such pairs; test may be ``None``."""

CPU: Final = torch.device("cpu")
"""Where splits are loaded, and where the models that a run delivers are evaluated."""

RESIDENT_BYTES = 2**30
"""Splits up to this size are kept on the GPU as a whole, larger ones are sent batch by batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Examples: inputs of shape (N, ...), targets of shape (N, ...). Floats are float32, integers int64."""

    inputs: torch.Tensor
    targets: torch.Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def rows(self, index: torch.Tensor | slice, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """The examples at ``index`` (a slice, or a tensor of indices of any shape), on ``device``."""
        return _send(_rows(self.inputs, index), device), _send(_rows(self.targets, index), device)

    def subset(self, index: torch.Tensor) -> Split:
        """A split of the examples with these indices, on the same device."""
        index = index.to(self.inputs.device)
        return Split(inputs=self.inputs[index], targets=self.targets[index])


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    train: Split
    validation: Split
    test: Split | None


class Batches:
    """Minibatches without replacement, epoch after epoch.

    The batches are cut from one endless sequence of examples, so every batch is full, the size may change at any step,
    and a batch may cross the end of an epoch. ``examples`` counts the examples handed out; together with the seed it
    determines what comes next.

    Args:
        among: indices of the rows to hand out, int64; all rows of the split by default.
    """

    def __init__(self, split: Split, *, seed: int, device: torch.device, among: torch.Tensor | None = None) -> None:
        self.examples = 0
        self._split = split
        self._among = among
        self._seed = seed
        self._device = device
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    def __len__(self) -> int:
        """The number of examples in an epoch."""
        return len(self._split) if self._among is None else len(self._among)

    def take(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The next ``size`` (1..N) examples on the member's device."""
        return self.rows(self.indices(size))

    def rows(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The examples at ``index`` (of any shape) on the member's device."""
        return self._split.rows(index, self._device)

    @functools.cached_property
    def all_classes(self) -> bool:
        """Whether all targets are class indices: no probabilities, and no negative class for a loss to ignore."""
        targets = self._split.targets
        return not targets.is_floating_point() and bool((targets >= 0).all())

    def indices(self, count: int) -> torch.Tensor:
        """Indices of the next ``count`` examples, int64, shape (count,), on the device of the split. Counts them as
        handed out."""
        parts: list[torch.Tensor] = []
        while count > 0:
            epoch, first = divmod(self.examples, len(self))
            parts.append(self._epoch_order(epoch)[first : first + count])
            self.examples += len(parts[-1])
            count -= len(parts[-1])
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _epoch_order(self, epoch: int) -> torch.Tensor:
        if epoch != self._epoch:
            if self._among is None:
                order = permutation(len(self), self._seed, epoch)
            else:
                order = self._among[permutation(len(self), self._seed, epoch)]
            self._order, self._epoch = order.to(self._split.inputs.device), epoch
        return self._order


@functools.lru_cache(maxsize=8)
def load_splits(data: DataSource, device: torch.device) -> Splits:
    """Call ``data`` (once per process) and check what it returns. Raises ``ValueError`` with one sentence."""
    loaded: Any = data()  # users' functions may return anything
    if not isinstance(loaded, tuple | list) or len(loaded) != 3:
        raise ValueError(f"The data function must return (train, validation, test), not {_describe(loaded)}.")
    train, validation = _split(loaded[0], "train"), _split(loaded[1], "validation")
    test = None if loaded[2] is None else _split(loaded[2], "test")
    for name, split in (("validation", validation), ("test", test)):
        if split is not None and split.inputs.shape[1:] != train.inputs.shape[1:]:
            raise ValueError(
                f"Inputs of the {name} split have shape {tuple(split.inputs.shape[1:])} per example, "
                f"those of the train split {tuple(train.inputs.shape[1:])}; they must be the same."
            )
    if device.type != "cpu":
        train, validation = _move_if_small(train, device), _move_if_small(validation, device)
    return Splits(train=train, validation=validation, test=test)


def _split(data: Any, name: str) -> Split:
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, tuple | list | str | dict):
        data = _stack(data, name)
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise ValueError(f"The {name} split must be a pair (inputs, targets) or a Dataset, not {_describe(data)}.")
    inputs, targets = _tensor(data[0], f"inputs of the {name} split"), _tensor(data[1], f"targets of the {name} split")
    if len(inputs) != len(targets) or len(inputs) == 0:
        raise ValueError(
            f"The {name} split must hold as many inputs as targets and at least one, "
            f"not {len(inputs)} and {len(targets)}."
        )
    return Split(inputs=inputs, targets=targets)


def _stack(dataset: Any, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    pairs = [dataset[index] for index in range(len(dataset))]
    if not pairs or any(not isinstance(pair, tuple | list) or len(pair) != 2 for pair in pairs):
        raise ValueError(f"The Dataset of the {name} split must hold pairs (input, target) and at least one.")
    try:
        columns = [torch.stack([torch.as_tensor(item) for item in column]) for column in zip(*pairs, strict=True)]
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"The examples of the {name} split cannot be stacked into one array: {error}.") from error
    return columns[0], columns[1]


def _tensor(values: Any, what: str) -> torch.Tensor:
    try:
        tensor = values.detach().clone() if isinstance(values, torch.Tensor) else torch.tensor(np.asarray(values))
    except (TypeError, ValueError) as error:
        raise ValueError(f"The {what} must be an array of numbers, not {_describe(values)}.") from error
    if tensor.ndim == 0:
        raise ValueError(f"The {what} must have one row per example, not be a single number.")
    return tensor.float() if tensor.is_floating_point() or tensor.dtype == torch.bool else tensor.long()


def _move_if_small(split: Split, device: torch.device) -> Split:
    """The split on the device, if it is small enough to be kept there as a whole; else as it is."""
    if sum(part.numel() * part.element_size() for part in (split.inputs, split.targets)) > RESIDENT_BYTES:
        return split
    return Split(inputs=split.inputs.to(device), targets=split.targets.to(device))


def _rows(values: torch.Tensor, index: torch.Tensor | slice) -> torch.Tensor:
    """``values[index]``, by ``index_select`` for a tensor of indices, as that is faster."""
    if isinstance(index, slice):
        return values[index]
    return values.index_select(0, index.flatten()).view(*index.shape, *values.shape[1:])


def _send(rows: torch.Tensor, device: torch.device) -> torch.Tensor:
    if rows.device.type == device.type:
        return rows
    return rows.pin_memory().to(device, non_blocking=True)


def _describe(value: Any) -> str:
    kind = type(value).__name__
    if hasattr(value, "shape"):
        return f"{kind} of shape {tuple(value.shape)}"
    return f"{kind} of length {len(value)}" if hasattr(value, "__len__") else kind
