"""Random numbers of one member, as a function of its seed and its progress.

Torch draws initial weights and dropout masks from one generator per process, which several members share. So each
member sets the generator to a stream of its own while it works. A stream is named by integers (seed, step and so on),
so a member's counters are its complete random state: nothing else needs saving to continue bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

START, TRAIN, SHUFFLE, AUGMENT = range(4)
"""First integer of a stream's name, so that streams for different uses never share numbers."""


@contextmanager
def random_stream(device: torch.device, *name: int) -> Iterator[None]:
    """Set torch's generators of the CPU and ``device`` to the start of the stream ``name``; restore them afterwards."""
    with seeded(device, _seed(name)):
        yield


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Seed torch's generators of the CPU and ``device``; restore them afterwards."""
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def generator(device: torch.device, *name: int) -> torch.Generator:
    """A separate generator on ``device``, at the start of the stream ``name``."""
    new = torch.Generator(device=device)
    new.manual_seed(_seed(name))
    return new


def permutation(size: int, *name: int) -> torch.Tensor:
    """The indices 0..size-1 in the order of the stream ``name``: int64, shape (size,), on the CPU."""
    return torch.from_numpy(np.random.default_rng([SHUFFLE, *name]).permutation(size))


def _seed(name: Sequence[int]) -> int:
    return int(np.random.SeedSequence(name).generate_state(1, np.uint64)[0])
