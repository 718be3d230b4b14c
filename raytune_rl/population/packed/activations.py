"""Activation functions for the hand-written passes: forward into a tensor, backward in place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

_aten = torch.ops.aten


class Activation(ABC):
    """One activation function.

    Attributes:
        needs_input: the backward pass needs the input, so the output must not overwrite it. Otherwise it needs the
            output.
        survives_mask: the backward pass may see the output times a dropout mask instead.
    """

    needs_input = False
    survives_mask = False

    @abstractmethod
    def forward(self, before: torch.Tensor, into: torch.Tensor) -> None: ...

    @abstractmethod
    def backward(self, slope: torch.Tensor, before: torch.Tensor, after: torch.Tensor) -> None:
        """Multiply ``slope`` by the derivative."""


class ReLU(Activation):
    survives_mask = True  # where the mask is zero the slope already is

    def forward(self, before: torch.Tensor, into: torch.Tensor) -> None:
        if before is into:
            into.relu_()
        else:
            torch.clamp(before, min=0, out=into)

    def backward(self, slope: torch.Tensor, before: torch.Tensor, after: torch.Tensor) -> None:
        _aten.threshold_backward.grad_input(slope, after, 0, grad_input=slope)


class Tanh(Activation):
    def forward(self, before: torch.Tensor, into: torch.Tensor) -> None:
        torch.tanh(before, out=into)

    def backward(self, slope: torch.Tensor, before: torch.Tensor, after: torch.Tensor) -> None:
        _aten.tanh_backward.grad_input(slope, after, grad_input=slope)


class Sigmoid(Activation):
    def forward(self, before: torch.Tensor, into: torch.Tensor) -> None:
        torch.sigmoid(before, out=into)

    def backward(self, slope: torch.Tensor, before: torch.Tensor, after: torch.Tensor) -> None:
        _aten.sigmoid_backward.grad_input(slope, after, grad_input=slope)


class GELU(Activation):
    needs_input = True

    def __init__(self, module: nn.GELU) -> None:
        self._approximate = module.approximate

    def forward(self, before: torch.Tensor, into: torch.Tensor) -> None:
        _aten.gelu.out(before, approximate=self._approximate, out=into)

    def backward(self, slope: torch.Tensor, before: torch.Tensor, after: torch.Tensor) -> None:
        _aten.gelu_backward.grad_input(slope, before, approximate=self._approximate, grad_input=slope)


class SiLU(Activation):
    needs_input = True

    def forward(self, before: torch.Tensor, into: torch.Tensor) -> None:
        _aten.silu.out(before, out=into)

    def backward(self, slope: torch.Tensor, before: torch.Tensor, after: torch.Tensor) -> None:
        _aten.silu_backward.grad_input(slope, before, grad_input=slope)


class LeakyReLU(Activation):
    needs_input = True

    def __init__(self, module: nn.LeakyReLU) -> None:
        self._slope = module.negative_slope

    def forward(self, before: torch.Tensor, into: torch.Tensor) -> None:
        _aten.leaky_relu.out(before, self._slope, out=into)

    def backward(self, slope: torch.Tensor, before: torch.Tensor, after: torch.Tensor) -> None:
        _aten.leaky_relu_backward.grad_input(slope, before, self._slope, False, grad_input=slope)


class ELU(Activation):
    needs_input = True

    def __init__(self, module: nn.ELU) -> None:
        self._alpha = module.alpha

    def forward(self, before: torch.Tensor, into: torch.Tensor) -> None:
        _aten.elu.out(before, self._alpha, 1, 1, out=into)

    def backward(self, slope: torch.Tensor, before: torch.Tensor, after: torch.Tensor) -> None:
        _aten.elu_backward.grad_input(slope, self._alpha, 1, 1, False, before, grad_input=slope)


ACTIVATIONS: Mapping[type[nn.Module], Callable[[Any], Activation]] = {
    nn.ReLU: lambda module: ReLU(),
    nn.Tanh: lambda module: Tanh(),
    nn.Sigmoid: lambda module: Sigmoid(),
    nn.GELU: GELU,
    nn.SiLU: lambda module: SiLU(),
    nn.LeakyReLU: LeakyReLU,
    nn.ELU: ELU,
}
