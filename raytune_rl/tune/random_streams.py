"""Gives each member its own version of the process's global random streams."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np


class RandomStreams:
    """A context manager: inside, the process's global random streams are one member's own.

    Unchanged Trainables draw from ``random``, ``numpy.random`` and torch's default generator. Members share a process,
    so without this a member's numbers would depend on its neighbours and on every copy. On leaving, the process gets
    back what it had before.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._python = random.Random(seed).getstate()
        self._numpy = np.random.MT19937(seed)
        self._torch: Any = None  # seeded as soon as the process has imported torch

    @property
    def state(self) -> dict[str, Any]:
        """A copy, for checkpoints."""
        return {"python": self._python, "numpy": self._numpy.state, "torch": self._torch}

    @state.setter
    def state(self, state: Mapping[str, Any]) -> None:
        self._python, self._numpy.state, self._torch = state["python"], state["numpy"], state["torch"]

    def __enter__(self) -> None:
        # numpy's generator is exchanged, not copied, because its state is large. Each exchange loses a Gaussian number
        # that numpy may have kept for its next call; that happens in every run alike, so runs still repeat.
        torch = sys.modules.get("torch")
        generator = np.random.get_bit_generator()  # type: ignore[attr-defined]  # numpy's stubs forget these two
        self._outside = (random.getstate(), generator, torch and torch.get_rng_state())
        random.setstate(self._python)
        np.random.set_bit_generator(self._numpy)  # type: ignore[attr-defined]
        if torch is not None and self._torch is None:
            torch.manual_seed(self._seed)
        elif torch is not None:
            torch.set_rng_state(torch.from_numpy(np.array(self._torch)))

    def __exit__(self, *_: object) -> None:
        python, generator, torch_state = self._outside
        self._python = random.getstate()
        random.setstate(python)
        np.random.set_bit_generator(generator)  # type: ignore[attr-defined]
        if torch := sys.modules.get("torch"):
            self._torch = torch.get_rng_state().numpy().copy()
            if torch_state is not None:
                torch.set_rng_state(torch_state)
