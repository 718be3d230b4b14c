"""A gated recurrent unit in products that can be batched over members: ``vmap`` has no rule for torch's own kernel."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_aten: Any = torch.ops.aten


class PackedGRU(nn.Module):
    """Does what an ``nn.GRU`` does, with the same parameters by the same names, for inputs with a batch dimension.

    Args:
        layer: see ``fits``; its parameters are taken over.
    """

    def __init__(self, layer: nn.GRU) -> None:
        super().__init__()
        self._names = [
            [f"{part}_l{depth}{way}" for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
            for depth in range(layer.num_layers)
            for way in (("", "_reverse") if layer.bidirectional else ("",))
        ]
        for name, parameter in layer.named_parameters():
            self.register_parameter(name, parameter)
        self._ways = 2 if layer.bidirectional else 1
        self._width = layer.hidden_size
        self._batch_first = layer.batch_first

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Whether there is no dropout between its layers, whose masks torch's kernel draws inside."""
        return type(module) is nn.GRU and (module.dropout == 0 or module.num_layers == 1)

    def forward(self, inputs: torch.Tensor, state: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        if inputs.ndim != 3:
            raise ValueError("a packed GRU needs inputs of three dimensions")
        given = inputs.transpose(0, 1) if self._batch_first else inputs  # (time, B, features)
        last: list[torch.Tensor] = []
        for first in range(0, len(self._names), self._ways):
            outputs: list[torch.Tensor] = []
            for way in range(self._ways):
                index = first + way
                begin = given.new_zeros(given.shape[1], self._width) if state is None else state[index]
                found = self._run(index, given.flip(0) if way else given, begin)
                last.append(found[-1])
                outputs.append(found.flip(0) if way else found)
            given = outputs[0] if self._ways == 1 else torch.cat(outputs, dim=-1)
        return given.transpose(0, 1) if self._batch_first else given, torch.stack(last)

    def _run(self, index: int, inputs: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """All states, (time, B, width), of one layer in one direction."""
        weight_in, weight, bias_in, bias = (getattr(self, name, None) for name in self._names[index])
        assert weight_in is not None and weight is not None
        flat = inputs.flatten(0, 1)  # of all times at once
        drive = flat @ weight_in.T if bias_in is None else torch.addmm(bias_in, flat, weight_in.T)
        drive = drive.view(*inputs.shape[:2], -1)
        shift = weight.new_zeros(len(weight)) if bias is None else bias
        found: torch.Tensor = _Recurrence.apply(drive, weight, shift, hidden)[0]  # type: ignore[no-untyped-call]
        return found


class _Recurrence(torch.autograd.Function):
    """The states of a unit, shape (..., time, B, width), told from what drives it (..., time, B, 3 width), its
    recurrent weights (..., 3 width, width) and bias (..., 3 width), and its first state (..., B, width).

    Forward and backward by hand, without a graph over time. Dimensions in front are members. What comes after the
    states is for the way back: the states before, the gates (reset, update), the new states, and their recurrent part.
    """

    @staticmethod
    def forward(
        drive: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, hidden: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        width = hidden.shape[-1]
        turned, shift = weight.transpose(-1, -2), bias.unsqueeze(-2)
        product = torch.baddbmm if weight.ndim == 3 else torch.addmm  # with the bias in one pass
        times = drive.unbind(-3)
        room = [drive.new_empty(len(times), *hidden.shape[:-1], size * width) for size in (2, 1, 3)]
        befores = []
        for given, gates, new, own in zip(times, *room, strict=True):
            befores.append(hidden)
            product(shift, hidden, turned, out=own)
            torch.add(given[..., : 2 * width], own[..., : 2 * width], out=gates).sigmoid_()
            torch.addcmul(given[..., 2 * width :], gates[..., :width], own[..., 2 * width :], out=new).tanh_()
            hidden = torch.lerp(new, hidden, gates[..., width:])
        gates, new, own = (part.movedim(0, -3) for part in room)  # time stays outermost in memory
        states, before = (torch.stack(part).movedim(0, -3) for part in ([*befores[1:], hidden], befores))
        return states, before, gates, new, own[..., 2 * width :]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, ...], output: tuple[torch.Tensor, ...]) -> None:
        ctx.save_for_backward(inputs[1], *output[1:])
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *given: torch.Tensor) -> tuple[Any, Any]:
        moved = [
            part.expand(info.batch_size, *part.shape) if dim is None else part.movedim(dim, 0)
            for part, dim in zip(given, in_dims, strict=True)
        ]
        return _Recurrence.apply(*moved), (0,) * 5  # type: ignore[no-untyped-call]

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor, ...]:
        weight, before, gates, news, owns = ctx.saved_tensors
        assert slopes[0] is not None
        times, *others, width = news.movedim(-3, 0).shape
        by_drive = news.new_empty(times, *others, 3 * width).movedim(0, -3)
        by_own = torch.empty_like(by_drive)
        product = torch.baddbmm if weight.ndim == 3 else torch.addmm
        slope = torch.zeros_like(news[..., 0, :, :])
        steps = [part.unbind(-3) for part in (slopes[0], before, gates, news, owns, by_drive, by_own)]
        for incoming, hidden, gate, new, own, to_drive, to_own in reversed(list(zip(*steps, strict=True))):
            slope = slope.add_(incoming)
            reset, update = gate[..., :width], gate[..., width:]
            by_reset, by_update, by_new = to_drive.split(width, dim=-1)  # written in place, as all that follows
            torch.addcmul(slope, slope, update, value=-1.0, out=by_new)
            _aten.tanh_backward.grad_input(by_new, new, grad_input=by_new)
            torch.mul(by_new, own, out=by_reset)
            torch.sub(hidden, new, out=by_update).mul_(slope)
            by_gates = to_drive[..., : 2 * width]
            _aten.sigmoid_backward.grad_input(by_gates, gate, grad_input=by_gates)
            to_own[..., : 2 * width] = by_gates
            torch.mul(by_new, reset, out=to_own[..., 2 * width :])
            slope = product(slope.mul_(update), to_own, weight)
        flat = by_own.flatten(-3, -2)  # one product for all times
        by_weight = flat.transpose(-1, -2) @ before.flatten(-3, -2)
        return by_drive, by_weight, flat.sum(dim=-2), slope
