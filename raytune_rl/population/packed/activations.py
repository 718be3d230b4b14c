"""Activations by hand: in place, forward and backward, for whole tensors of all members."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import nn

Pass: TypeAlias = Callable[[torch.Tensor, torch.Tensor], Any]

_KNOWN = (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.LeakyReLU, nn.SiLU, nn.GELU)
_aten: Any = torch.ops.aten  # the kernels that autograd itself calls: one pass over memory, no graph


@dataclass(frozen=True, slots=True)
class Activation:
    """An elementwise function.

    Attributes:
        forward: overwrites its first argument with the function of it, or (``from_input``) returns a new tensor.
        backward: (slope, saved): overwrites the gradient by the outputs with the one by the inputs. ``saved`` is the
            output, or (``from_input``) the input.
        from_input: whether ``backward`` needs the input, which ``forward`` then has to leave alone.
        survives_mask: whether a dropout mask written over the output leaves ``backward`` what it needs of it.
        after_maximum: whether the maximum of its outputs is its output for the maximum, gradients included.
    """

    forward: Callable[[torch.Tensor], torch.Tensor]
    backward: Pass
    from_input: bool = False
    survives_mask: bool = False
    after_maximum: bool = False


def activation(module: nn.Module) -> Activation | None:
    """That of a module; ``None`` for one that is not known here."""
    if type(module) not in _KNOWN:  # a subclass may do anything
        return None
    match module:
        case nn.ReLU():
            return Activation(torch.relu_, _threshold, survives_mask=True, after_maximum=True)
        case nn.Tanh():
            return Activation(
                torch.tanh_, lambda slope, out: _aten.tanh_backward.grad_input(slope, out, grad_input=slope)
            )
        case nn.Sigmoid():
            return Activation(
                torch.sigmoid_, lambda slope, out: _aten.sigmoid_backward.grad_input(slope, out, grad_input=slope)
            )
        case nn.LeakyReLU() if module.negative_slope > 0:
            steepness = module.negative_slope
            return Activation(
                lambda hidden: F.leaky_relu_(hidden, steepness),
                lambda slope, out: _aten.leaky_relu_backward.grad_input(slope, out, steepness, True, grad_input=slope),
            )
        case nn.SiLU():
            return Activation(
                F.silu,
                lambda slope, given: _aten.silu_backward.grad_input(slope, given, grad_input=slope),
                from_input=True,
            )
        case nn.GELU():
            kind = module.approximate
            return Activation(
                lambda hidden: F.gelu(hidden, approximate=kind),
                lambda slope, given: _aten.gelu_backward.grad_input(slope, given, approximate=kind, grad_input=slope),
                from_input=True,
            )
    return None


def _threshold(slope: torch.Tensor, out: torch.Tensor) -> None:
    _aten.threshold_backward.grad_input(slope, out, 0, grad_input=slope)
