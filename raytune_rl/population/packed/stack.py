"""Stacks of layers by hand: batched matrix products forward and backward, without a graph.

``vmap`` serves any network, but for small ones most of its time is book-keeping. A ``Sequential`` of linear layers,
convolutions, maxima, activations and dropout needs one product per layer on the way forward, and two on the way back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from raytune_rl.population.packed.activations import Activation
from raytune_rl.population.packed.losses import LossName, Objective, loss_and_slope
from raytune_rl.population.packed.parts import Bound, Dropout, DropoutRates, Memory, Place
from raytune_rl.population.packed.sequential import structure

BOUND = 64
"""Combinations of members and shapes of batches whose views are kept."""

AT_ONCE, FEWEST = 4096, 32
"""About so many outputs (models times examples) are computed at once where parts go over space, and of so many examples
at the least: what each place of a kernel sees of them should stay in the cache."""


@dataclass(frozen=True, slots=True)
class _Program:
    """What some members do with batches of one shape: all parts on the way forward, on the way back as many as stand
    from the first that has parameters on."""

    forward: Sequence[Bound]
    first: int


class Stack:
    """Loss and gradients of K networks that are stacks of known parts.

    Args:
        network: one of them, for its structure; see ``fits``.
        parameters, gradients: views of shape (K, ...) by the network's names; gradients are written.
    """

    def __init__(
        self, network: nn.Module, parameters: Mapping[str, torch.Tensor], gradients: Mapping[str, torch.Tensor]
    ) -> None:
        found = structure(network)
        assert found is not None
        self._parts, self._dimensions, self.spatial = found.parts, found.dimensions, found.spatial
        self._parameters, self._gradients = parameters, gradients
        self._memory = Memory(next(iter(parameters.values())))
        self._programs: dict[tuple[int, int, torch.Size, bool], _Program] = {}

    @staticmethod
    def fits(network: nn.Module, device: torch.device) -> bool:
        """Whether ``network`` is nothing but parts that are known here, none of them with shared parameters. What goes
        over space is left to vmap but on a CPU, where alone it has been measured."""
        found = structure(network)
        return found is not None and (device.type == "cpu" or not found.spatial)

    def takes(self, dimensions: int) -> bool:
        """Whether examples of so many dimensions are what the network is made for."""
        return self._dimensions is None or dimensions == self._dimensions

    def room(self, shape: torch.Size) -> int:
        """Bytes that a member's step on a batch of inputs (B, ...) works on."""
        memory = Memory(next(iter(self._parameters.values())))
        self._program(slice(0, 1), torch.Size([1, *shape[1:], shape[0]]), True, memory)
        return memory.bytes()

    @torch.no_grad()
    def outputs(self, inputs: torch.Tensor, parameters: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """What stacks with these ``parameters``, by name (n, ...), make of the same ``inputs`` (N, ...), without
        dropout: shape (n, N, outputs)."""
        if not self.spatial:
            return self._outputs(inputs, parameters)
        size = max(FEWEST, AT_ONCE // len(next(iter(parameters.values()))))
        blocks = [inputs[first : first + size] for first in range(0, max(1, len(inputs)), size)]
        return torch.cat([self._outputs(block, parameters) for block in blocks], dim=1)

    def _outputs(self, inputs: torch.Tensor, parameters: Mapping[str, torch.Tensor]) -> torch.Tensor:
        hidden = inputs.movedim(0, -1).unsqueeze(0)
        for part in self._parts:
            hidden = part.outputs(hidden, parameters)
        return hidden.transpose(1, 2)

    @torch.no_grad()
    def loss_and_gradients(
        self,
        loss: LossName | Objective,
        rows: slice,
        inputs: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor | None,
        smoothing: torch.Tensor | None,
        dropout: DropoutRates | None,
    ) -> torch.Tensor:
        """The losses of the members ``rows``, shape (k,); their gradients go into their buffer.

        Everything given is of these members only; for shapes see ``PackedPopulation``. ``weights``, ``smoothing`` and
        ``dropout``: ``None`` = equal ones, none, none.
        """
        if inputs.dtype != self._memory.dtype:  # what goes over space would convert it without a word
            raise TypeError(f"a packed network of {self._memory.dtype} was given inputs of {inputs.dtype}")
        hidden = inputs.movedim(1, -1)
        key = (rows.start, rows.stop, hidden.shape, dropout is not None)
        program = self._programs.get(key)
        if program is None:
            if len(self._programs) >= BOUND:
                self._programs.clear()
            program = self._programs[key] = self._program(rows, hidden.shape, dropout is not None, self._memory)
        kept: list[torch.Tensor | None] = []
        for part in program.forward:
            hidden, saved = part.forward(hidden, dropout)
            kept.append(saved)
        if isinstance(loss, Objective):
            losses, slope = loss.loss_and_slope(rows, hidden.transpose(1, 2), targets, weights)
            slope = slope.transpose(1, 2).contiguous()
        else:
            wanted = targets if loss == "cross_entropy" else targets.transpose(1, 2)
            losses, slope = loss_and_slope(loss, hidden, wanted, weights, smoothing)
        for index in range(len(kept) - 1, program.first - 1, -1):
            slope = program.forward[index].backward(slope, kept[index])
        return losses

    def _program(self, rows: slice, shape: torch.Size, dropout: bool, memory: Memory) -> _Program:
        """For inputs of this ``shape``, (k, features..., B)."""
        parts = [(index, part) for index, part in enumerate(self._parts) if dropout or not isinstance(part, Dropout)]
        first = next(place for place, (_, part) in enumerate(parts) if part.learns)
        found: list[Bound] = []
        turn = 0
        reads: Activation | None = None
        spare: torch.Tensor | None = None
        for index, part in parts:
            place = Place(
                index=index,
                turn=turn,
                shape=shape,
                rows=rows,
                learns=len(found) > first,
                reads=reads,
                spare=spare,
                parameters=self._parameters,
                gradients=self._gradients,
                memory=memory,
            )
            found.append(bound := part.bind(place))
            shape, reads, spare = bound.shape, bound.reads, bound.spare
            turn = 1 - turn if part.spatial else turn
        return _Program(found, first)
