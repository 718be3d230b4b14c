"""What every layer of a hand-written stack gets and has to provide.

A ``StackLayer`` describes one layer of the network. To run, it is *bound* to some members and a batch shape; the
``BoundLayer`` that results holds all its parameter views and buffers, so that a step allocates and slices little.

Activations are feature-major with the batch innermost in memory: (k, features, B) or (k, channels, *space, B). Then the
matrix products have the layouts that BLAS handles best, weights need no transposition, and operations on windows or
classes run over contiguous examples. Whatever the backward pass does not read is overwritten in place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from raytune_rl.population.packed.activations import Activation


@dataclass(frozen=True, slots=True)
class DropoutRates:
    """Dropout of k members at each dropout site of their network.

    Attributes:
        rates: shape (k, sites).
        scale: what the surviving activations are multiplied by, ``1 / (1 - rate)``, shape (k, sites).
    """

    rates: torch.Tensor
    scale: torch.Tensor

    @classmethod
    def of(cls, rates: torch.Tensor) -> DropoutRates:
        return cls(rates, (1.0 - rates).clamp(min=1e-6).reciprocal())


class Workspace:
    """Buffers that are used again in every step: touching fresh memory costs as much as the arithmetic.

    Args:
        like: a tensor of the dtype and device that the buffers have.
    """

    def __init__(self, like: torch.Tensor) -> None:
        self._like = like
        self._buffers: dict[str, torch.Tensor] = {}

    @property
    def dtype(self) -> torch.dtype:
        return self._like.dtype

    def buffer(self, name: str, shape: Sequence[int], dtype: torch.dtype | None = None) -> torch.Tensor:
        """An uninitialised tensor. Buffers of the same name share memory."""
        size = math.prod(shape)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < size:
            self._buffers[name] = buffer = self._like.new_empty(size, dtype=dtype or self._like.dtype)
        return buffer[:size].view(tuple(shape))

    def bytes(self) -> int:
        return sum(buffer.numel() * buffer.element_size() for buffer in self._buffers.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerContext:
    """What a layer is bound to: its position in the stack, the members, and the layer before it.

    Attributes:
        index: of the layer in the stack.
        grad_slot: 0 or 1, which of two buffers the gradient of the input goes to. Spatial layers alternate, so that one
            gradient can be read while the next one is written.
        shape: of the layer's input, (k, features..., B).
        rows: the members.
        needs_input_grad: whether a layer before this one has parameters. If not, nobody wants the gradient of the
            input, and the input may be the network's own, which must not be overwritten.
        input_saved_by: the activation before this layer, if its backward pass will read this layer's input, which then
            must not be overwritten.
        reusable_input: the layer's input, if that is always the same buffer and its gradient may be written over it.
        parameters, gradients: of all members, by name; gradients are written.
    """

    index: int
    grad_slot: int
    shape: torch.Size
    rows: slice
    needs_input_grad: bool
    input_saved_by: Activation | None
    reusable_input: torch.Tensor | None
    parameters: Mapping[str, torch.Tensor]
    gradients: Mapping[str, torch.Tensor]
    workspace: Workspace

    def input_grad(self) -> torch.Tensor:
        """A buffer for the gradient of the input."""
        return self.workspace.buffer(f"grad {self.grad_slot}", self.shape)


class BoundLayer(Protocol):
    """A layer with all the views and buffers that it works on."""

    @property
    def shape(self) -> torch.Size:
        """Of its output."""

    @property
    def output_saved_by(self) -> Activation | None:
        """What the next layer finds as ``LayerContext.input_saved_by``."""

    @property
    def reusable_output(self) -> torch.Tensor | None:
        """What the next layer finds as ``LayerContext.reusable_input``."""

    def forward(self, hidden: torch.Tensor, dropout: DropoutRates | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The output for the input ``hidden``, and what ``backward`` needs as ``saved``."""

    def backward(self, grad: torch.Tensor, saved: torch.Tensor | None) -> torch.Tensor:
        """Write the gradients of the parameters, and return that of the input, if it is needed. ``grad`` is the
        gradient of the output and may be overwritten."""


class StackLayer(Protocol):
    """A layer of the network, not bound to any members yet."""

    @property
    def has_parameters(self) -> bool: ...

    @property
    def spatial(self) -> bool:
        """Whether it is a convolution or pooling. These write the gradient of their input to
        ``LayerContext.input_grad``."""

    def bind(self, context: LayerContext) -> BoundLayer: ...

    def outputs(self, hidden: torch.Tensor, parameters: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Outputs, in eval mode, of models with these ``parameters`` (n, ...) for the input ``hidden`` (n, ...). The
        network's own input is (1, ...) and must not be overwritten, so activations, which would, never come first."""
