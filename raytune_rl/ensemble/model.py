"""The ensemble as one ``torch.nn.Module``: its members, their weights, and the fastest way to call all of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from raytune_rl.combining.calibration import Calibration
from raytune_rl.ensemble.batched import Batched
from raytune_rl.ensemble.links import Link, combined, least_probability
from raytune_rl.population.packed.batching import batching_rules_only

BATCHES = (1, 16, 256)
"""Rows at which the ways of calling the members are timed; beyond the last nothing is known, and the loop is used."""
REPEATS = 7
TRIAL_SECONDS = 0.2
"""Of one way at one number of rows; what takes longer is timed once."""
LARGE = 2**25
"""Parameters of all members together above which nothing is gained by stacking copies of them."""
UNTRIED = 1024.0
"""``batched_up_to`` on a device other than the one on which it was timed, for members that can be batched."""


class EnsembleModel(nn.Module):
    """Averages its members' predictions. Inputs (N, ...) and outputs (N, ...) are those of a member.

    It is made for predicting: in eval mode, with members that do not require gradients. ``members`` are ordinary
    networks, to be trained on or exchanged by whoever wants to: then they are called one after the other, or stacked
    anew.

    Args:
        networks: the members.
        weights: positive, their sum one.
        link: what is averaged.
        calibration: of the outcome; see ``links.combined``.
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
        self._tuned: dict[str, float] = {}  # ``batched_up_to`` by types of device
        self._shares: torch.Tensor
        self.register_buffer("_shares", torch.tensor([list(weights)], dtype=torch.float32), persistent=False)
        self._batched: Batched | None = None
        self._least: tuple[Calibration, object, torch.Tensor] | None = None
        self.requires_grad_(False)
        self.eval()

    @property
    def weights(self) -> torch.Tensor:
        """Of the members, shape (K,)."""
        return self._shares[0]

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """The combination of all members, as a member would put it."""
        outputs = self.outputs(inputs)
        least = self._least_probability(outputs) if self.link in ("softmax", "log") else None
        # not self._shares: modules are slow to look up their own buffers
        return combined(outputs, self._buffers["_shares"], self.link, self.calibration, least)  # type: ignore[arg-type]

    def outputs(self, inputs: torch.Tensor) -> torch.Tensor:
        """What each member makes of the inputs, shape (members, N, ...): how far they agree."""
        batched = self._batched_for(inputs)
        if batched is not None:
            return batched.run(inputs)
        return torch.stack([member(inputs) for member in self.members])

    def tune(self, example: torch.Tensor) -> None:
        """Time both ways of calling the members and keep the faster, by the number of rows.

        Args:
            example: inputs of one row, (1, ...), as to type and shape.
        """
        self._tuned = {}
        self.batched_up_to = 0.0
        count = sum(parameter.numel() for parameter in self.parameters())
        if not self.alike or len(self.members) < 2 or count > LARGE:
            return
        try:
            self._batched = Batched(self.members)
            with torch.no_grad(), batching_rules_only():  # without a rule, one after the other is faster
                self._batched.run(example)
        except Exception:  # an operation that cannot be vmapped, a network that cannot be copied: it is for speed alone
            self._batched = None
            return
        for rows in BATCHES:
            inputs = example.expand(rows, *example.shape[1:]).contiguous()
            alone, together = self._seconds(inputs, up_to=0.0), self._seconds(inputs, up_to=math.inf)
            if together > alone:
                break
            self._tuned[self._shares.device.type] = float(rows)
            if alone > TRIAL_SECONDS:  # such networks are not bound by the number of calls
                break
        self.batched_up_to = self._tuned.setdefault(self._shares.device.type, 0.0)

    def load_state_dict(self, *arguments: Any, **keywords: Any) -> Any:
        self._batched = None
        return super().load_state_dict(*arguments, **keywords)

    def train(self, mode: bool = True) -> EnsembleModel:
        """Members that are trained leave their stacked copies behind."""
        if mode:
            self._batched = None
        return super().train(mode)

    def _apply(self, function: Callable[..., Any], recurse: bool = True) -> Any:
        """So do members that move (``.to``, ``.double``), and what was timed on one device says nothing of another."""
        self._batched, self._least, before = None, None, self._shares.device.type
        moved = super()._apply(function, recurse)  # type: ignore[no-untyped-call]
        if self._shares.device.type != before:
            self.batched_up_to = self._tuned.get(self._shares.device.type, UNTRIED if self._tuned else 0.0)
        return moved

    def __getstate__(self) -> dict[str, Any]:
        """For pickles and copies, which stack the members anew."""
        return {**self.__dict__, "_batched": None, "_least": None}

    def _batched_for(self, inputs: torch.Tensor) -> Batched | None:
        """The members as one program, where that is faster and gives the same answer."""
        # an export keeps the loop, and must not come upon the number of rows
        if not self.batched_up_to or self.training or torch.compiler.is_compiling() or len(inputs) > self.batched_up_to:
            return None
        batched = self._batched
        if batched is None or not batched.current():
            try:
                batched = self._batched = Batched(self.members)
            except Exception:  # since ``tune`` a member was exchanged for one that does not go with the others
                self._batched, self.batched_up_to, self._tuned = None, 0.0, {}
                return None
        return batched if batched.serves(inputs) else None

    def _least_probability(self, outputs: torch.Tensor) -> torch.Tensor:
        """``links.least_probability``, kept from one call to the next."""
        if torch.compiler.is_compiling():
            return least_probability(outputs, self.calibration)
        kept = self._least
        if kept is not None and kept[0] is self.calibration and kept[1] == (outputs.size(2), outputs.dtype):
            return kept[2]
        least = least_probability(outputs, self.calibration)
        self._least = self.calibration, (outputs.size(2), outputs.dtype), least
        return least

    @torch.no_grad()
    def _seconds(self, inputs: torch.Tensor, *, up_to: float) -> float:
        """The fastest of some calls of the members, the first not counted."""
        self.batched_up_to = up_to
        wait: Callable[[], None] = torch.cuda.synchronize if inputs.is_cuda else lambda: None
        self.outputs(inputs)
        best, began = math.inf, time.perf_counter()
        for _ in range(REPEATS):
            wait()
            start = time.perf_counter()
            self.outputs(inputs)
            wait()
            now = time.perf_counter()
            best = min(best, now - start)
            if now - began > TRIAL_SECONDS:
                break
        return best
