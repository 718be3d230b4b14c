"""Which examples each member sees next, for a whole segment at once.

``OwnBatches`` gives every member the very batches that ``splits.Batches`` gives a ``TorchMember`` with its seed: a
fresh permutation per member and epoch. That costs a member about 15 microseconds per epoch and as much per segment,
too much for meta-training, where a step costs as little. ``BulkBatches`` reads one permutation of the population in
another stride and from another beginning per member and epoch: still every example once per epoch, in an order of the
member's own, and a function of its seed and count alone, but a few array operations for all members together.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import numpy.typing as npt

from raytune_rl.population.randomness import permutation

Ints = npt.NDArray[np.int64]


class BatchSource(Protocol):
    """The endless row of examples of each member.

    Attributes:
        seeds: of each member, shape (K,).
        examples: how many each member has had, shape (K,); with the seed it says what comes next.
    """

    seeds: Ints
    examples: Ints

    def take(self, rows: slice, sizes: Ints, length: int) -> Ints:
        """Indices for ``length`` batches of these members, shape (length, rows, max(sizes)).

        Row k holds ``sizes[k]`` (1..N) examples, the rest repeats one of them.
        """
        ...


class OwnBatches:
    """Batches as the members would have them one by one (``BatchSource``)."""

    def __init__(self, examples: int, seeds: Ints) -> None:
        self._count = examples
        self.seeds = np.array(seeds, dtype=np.int64)
        self.examples = np.zeros(len(self.seeds), dtype=np.int64)
        self._orders: dict[int, tuple[int, int, Ints]] = {}

    def take(self, rows: slice, sizes: Ints, length: int) -> Ints:
        members = range(*rows.indices(len(self.seeds)))
        taken = np.empty((length, len(members), int(sizes.max())), dtype=np.int64)
        for column, (member, size) in enumerate(zip(members, sizes.tolist(), strict=True)):
            first = int(self.examples[member])
            last = first + size * length
            epochs = range(first // self._count, -(-last // self._count))
            row = np.concatenate([self._order(member, epoch) for epoch in epochs])
            first -= epochs.start * self._count
            batches = row[first : first + size * length].reshape(length, size)
            taken[:, column, :size] = batches
            taken[:, column, size:] = batches[:, :1]
            self.examples[member] = last
        return taken

    def _order(self, member: int, epoch: int) -> Ints:
        """The last epoch's order is kept: the next segment begins in it."""
        seed = int(self.seeds[member])
        kept = self._orders.get(member)
        if kept is None or kept[:2] != (seed, epoch):
            kept = (seed, epoch, permutation(self._count, seed, epoch).numpy())
            self._orders[member] = kept
        return kept[2]


class BulkBatches:
    """Batches for very many members (``BatchSource``), see above."""

    def __init__(self, examples: int, seeds: Ints) -> None:
        self._count = examples
        self.seeds = np.array(seeds, dtype=np.int64)
        self.examples = np.zeros(len(self.seeds), dtype=np.int64)
        self._shuffled = permutation(examples, 0, 0).numpy()
        # reading in a stride without common divisor comes by every example
        strides = [stride for stride in range(1, max(2, examples)) if math.gcd(stride, examples) == 1]
        self._strides = np.array(strides, dtype=np.int64)

    def take(self, rows: slice, sizes: Ints, length: int) -> Ints:
        count, widest = self._count, int(sizes.max())
        began = self.examples[rows]
        self.examples[rows] = began + sizes * length
        place = np.minimum(np.arange(widest), sizes[:, None] - 1)
        at = (began[:, None] + place) + np.arange(length)[:, None, None] * sizes[:, None]
        epoch, within = np.divmod(at, count)
        first = began // count
        epochs = int((epoch[-1, :, -1] - first).max()) + 1
        numbers = first[:, None] + np.arange(epochs)
        stride = self._strides[_hash(self.seeds[rows], 2 * numbers) % len(self._strides)]
        begin = _hash(self.seeds[rows], 2 * numbers + 1) % count
        which = epoch - first[:, None]
        member = np.arange(len(began))[:, None]
        return self._shuffled[(stride[member, which] * within + begin[member, which]) % count]


def _hash(seeds: Ints, numbers: Ints) -> Ints:
    """Well-mixed non-negative integers of a member's seed and a number (splitmix64): (K,), (K, n) -> (K, n)."""
    with np.errstate(over="ignore"):
        mixed = seeds.astype(np.uint64)[:, None] * np.uint64(0x9E3779B97F4A7C15) + numbers.astype(np.uint64)
        for _ in range(2):
            mixed += np.uint64(0x9E3779B97F4A7C15)
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(1)).astype(np.int64)
