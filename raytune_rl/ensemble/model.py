"""The ensemble as one ``torch.nn.Module``: its members, their weights, and the fastest way to call all of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from raytune_rl.combining.calibration import Calibration
from raytune_rl.ensemble.batched import Batched, batched
from raytune_rl.ensemble.links import Link, finished, joined

BATCHES = (1, 16, 256)
"""Rows at which the ways of calling the members are timed."""
REPEATS = 7
TRIAL_SECONDS = 0.2
"""Of one way at one number of rows; what takes longer is timed once."""
LARGE = 2**25
"""Parameters of all members together above which nothing is gained by stacking copies of them."""


class EnsembleModel(nn.Module):
    """Averages its members' predictions. Inputs (N, ...) and outputs (N, ...) are those of a member.

    It is made for predicting: in eval mode, with members that do not require gradients (``members`` are ordinary
    networks, to be trained on by whoever wants to).

    Args:
        networks: the members.
        weights: positive, their sum one.
        link: what is averaged.
        calibration: of the outcome; see ``links.finished``.
        alike: whether the members differ in nothing but their numbers, so that ``tune`` may batch them.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        weights: Sequence[float],
        *,
        link: Link,
        calibration: Calibration | None = None,
        alike: bool = False,
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(networks)
        self.link = link
        self.calibration = calibration or Calibration()
        self.alike = alike
        self.batched_up_to: float = 0.0
        """Rows up to which the members are called as one program; 0 = never, infinity = always."""
        self.weights: torch.Tensor
        self.register_buffer("weights", torch.tensor(list(weights), dtype=torch.float32), persistent=False)
        self._batched: Batched | None = None
        self.requires_grad_(False)
        self.eval()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """The combination of all members, as a member would put it."""
        return finished(joined(self.outputs(inputs), self.weights, self.link), self.calibration, self.link)

    def outputs(self, inputs: torch.Tensor) -> torch.Tensor:
        """What each member makes of the inputs, shape (members, N, ...): how far they agree."""
        # an export keeps the loop, and must not come upon the number of rows
        may = self.batched_up_to > 0 and not self.training and not torch.compiler.is_compiling()
        if may and len(inputs) <= self.batched_up_to:
            if self._batched is None:
                self._batched = batched(list(self.members))
            return self._batched(inputs)
        return torch.stack([member(inputs) for member in self.members])

    def tune(self, example: torch.Tensor) -> None:
        """Time both ways of calling the members and keep the faster, by the number of rows.

        Args:
            example: inputs of one row, (1, ...), as to type and shape.
        """
        self.batched_up_to = 0.0
        count = sum(parameter.numel() for parameter in self.parameters())
        if not self.alike or len(self.members) < 2 or count > LARGE:
            return
        try:
            self._batched = batched(list(self.members))
            with torch.no_grad():
                self._batched(example)
        except (RuntimeError, ValueError, NotImplementedError):  # an operation that cannot be vmapped
            self._batched = None
            return
        for rows in BATCHES:
            inputs = example.expand(rows, *example.shape[1:]).contiguous()
            self.batched_up_to = 0.0
            alone = _seconds(lambda inputs=inputs: self.outputs(inputs))  # type: ignore[misc]
            self.batched_up_to = float(rows)
            together = _seconds(lambda inputs=inputs: self.outputs(inputs))  # type: ignore[misc]
            if together > alone:
                self.batched_up_to = float(max((smaller for smaller in BATCHES if smaller < rows), default=0))
                return
        self.batched_up_to = math.inf

    def load_state_dict(self, *arguments: Any, **keywords: Any) -> Any:
        self._batched = None
        return super().load_state_dict(*arguments, **keywords)

    def _apply(self, function: Callable[..., Any], recurse: bool = True) -> Any:
        """Members that move (``.to``, ``.double``) leave their stacked copies behind."""
        self._batched = None
        return super()._apply(function, recurse)  # type: ignore[no-untyped-call]


@torch.no_grad()
def _seconds(call: Callable[[], torch.Tensor]) -> float:
    """The fastest of some calls, the first not counted."""
    call()
    best, began = math.inf, time.perf_counter()
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        now = time.perf_counter()
        best = min(best, now - start)
        if now - began > TRIAL_SECONDS:
            break
    return best
