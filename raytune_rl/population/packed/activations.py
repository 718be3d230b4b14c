"""Elementwise activations with hand-written gradients, in place, for the tensors of all members at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import nn

Backward: TypeAlias = Callable[[torch.Tensor, torch.Tensor], Any]

_KNOWN = (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.LeakyReLU, nn.SiLU, nn.GELU)
_aten: Any = torch.ops.aten  # the kernels that autograd itself calls: one pass over memory, no graph


@dataclass(frozen=True, slots=True)
class Activation:
    """An elementwise function and its gradient.

    Attributes:
        forward: overwrites its argument with the function's value, or, with ``saves_input``, returns a new tensor.
        backward: ``(grad, saved)``: turns the gradient of the output into that of the input, in place. ``saved`` is the
            output, or, with ``saves_input``, the input.
        saves_input: whether ``backward`` needs the input instead of the output.
        survives_mask: whether ``backward`` still works when a dropout mask was multiplied into the saved output.
        commutes_with_max: whether max pooling may be done before the activation instead of after it, with the same
            outputs and gradients.
    """

    forward: Callable[[torch.Tensor], torch.Tensor]
    backward: Backward
    saves_input: bool = False
    survives_mask: bool = False
    commutes_with_max: bool = False


def activation(module: nn.Module) -> Activation | None:
    """The activation that ``module`` computes; ``None`` if it is not one of the known ones."""
    if type(module) not in _KNOWN:  # a subclass may compute something else
        return None
    match module:
        case nn.ReLU():
            return Activation(torch.relu_, _relu_backward, survives_mask=True, commutes_with_max=True)
        case nn.Tanh():
            return Activation(torch.tanh_, lambda grad, out: _aten.tanh_backward.grad_input(grad, out, grad_input=grad))
        case nn.Sigmoid():
            return Activation(
                torch.sigmoid_, lambda grad, out: _aten.sigmoid_backward.grad_input(grad, out, grad_input=grad)
            )
        case nn.LeakyReLU() if module.negative_slope > 0:
            negative_slope = module.negative_slope
            return Activation(
                lambda hidden: F.leaky_relu_(hidden, negative_slope),
                lambda grad, out: _aten.leaky_relu_backward.grad_input(
                    grad, out, negative_slope, True, grad_input=grad
                ),
            )
        case nn.SiLU():
            return Activation(
                F.silu,
                lambda grad, inputs: _aten.silu_backward.grad_input(grad, inputs, grad_input=grad),
                saves_input=True,
            )
        case nn.GELU():
            approximate = module.approximate
            return Activation(
                lambda hidden: F.gelu(hidden, approximate=approximate),
                lambda grad, inputs: _aten.gelu_backward.grad_input(
                    grad, inputs, approximate=approximate, grad_input=grad
                ),
                saves_input=True,
            )
    return None


def _relu_backward(grad: torch.Tensor, out: torch.Tensor) -> None:
    _aten.threshold_backward.grad_input(grad, out, 0, grad_input=grad)
