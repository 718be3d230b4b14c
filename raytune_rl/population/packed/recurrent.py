"""A GRU in matrix products that can be batched over members: ``vmap`` has no batching rule for torch's own kernel."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_aten: Any = torch.ops.aten


class PackedGRU(nn.GRU):
    """Computes what an ``nn.GRU`` computes, for batched inputs."""

    def forward(  # type: ignore[override]
        self, inputs: torch.Tensor, state: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not isinstance(inputs, torch.Tensor) or inputs.ndim != 3:
            raise ValueError("a packed GRU needs inputs of three dimensions")
        sequence = inputs.transpose(0, 1) if self.batch_first else inputs  # (time, B, features)
        last_states: list[torch.Tensor] = []
        directions = 2 if self.bidirectional else 1
        for first in range(0, self.num_layers * directions, directions):
            outputs: list[torch.Tensor] = []
            for direction in range(directions):
                index = first + direction
                initial = sequence.new_zeros(sequence.shape[1], self.hidden_size) if state is None else state[index]
                states = self._run(index, sequence.flip(0) if direction else sequence, initial)
                last_states.append(states[-1])
                outputs.append(states.flip(0) if direction else states)
            sequence = outputs[0] if directions == 1 else torch.cat(outputs, dim=-1)
        return sequence.transpose(0, 1) if self.batch_first else sequence, torch.stack(last_states)

    def flatten_parameters(self) -> None:
        """Nothing: that is for cuDNN."""

    def _run(self, index: int, inputs: torch.Tensor, initial: torch.Tensor) -> torch.Tensor:
        """The hidden states of one layer in one direction at all times, (time, B, hidden)."""
        directions = 2 if self.bidirectional else 1
        suffix = f"_l{index // directions}{'_reverse' if index % directions else ''}"
        names = (f"{kind}{suffix}" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        weight_ih, weight_hh, bias_ih, bias_hh = (getattr(self, name, None) for name in names)
        assert weight_ih is not None and weight_hh is not None
        flat = inputs.flatten(0, 1)  # one product for all times
        input_part = flat @ weight_ih.T if bias_ih is None else torch.addmm(bias_ih, flat, weight_ih.T)
        input_part = input_part.view(*inputs.shape[:2], -1)
        bias = weight_hh.new_zeros(len(weight_hh)) if bias_hh is None else bias_hh
        states: torch.Tensor = _Recurrence.apply(input_part, weight_hh, bias, initial)[0]  # type: ignore[no-untyped-call]
        return states


def pack_gru(module: nn.Module) -> None:
    """Make a GRU without dropout between its layers (torch's kernel draws those masks inside) a packed one, in place;
    leave other modules."""
    if type(module) is nn.GRU and (module.dropout == 0 or module.num_layers == 1):
        module.__class__ = PackedGRU


class _Recurrence(torch.autograd.Function):
    """The recurrence of a GRU over time, with a hand-written backward pass instead of an autograd graph.

    The three gates lie side by side in torch's order: reset, update, new. They are computed from an input part,
    ``W_ih x + b_ih`` (given for all times), and a hidden part, ``W_hh h + b_hh``. Leading dimensions are members.

    Inputs: the input part (..., time, B, 3 hidden), ``W_hh`` (..., 3 hidden, hidden), ``b_hh`` (..., 3 hidden) and the
    initial state (..., B, hidden).

    Outputs: the states (..., time, B, hidden), then what ``backward`` needs: the state before each step, the reset and
    update gates (..., time, B, 2 hidden), the new gate, and the hidden part of the new gate.
    """

    @staticmethod
    def forward(
        input_part: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, hidden: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        size = hidden.shape[-1]
        weight_t, bias_row = weight.transpose(-1, -2), bias.unsqueeze(-2)
        product = torch.baddbmm if weight.ndim == 3 else torch.addmm  # adds the bias in the same pass
        input_parts = input_part.unbind(-3)
        buffers = [input_part.new_empty(len(input_parts), *hidden.shape[:-1], gates * size) for gates in (2, 1, 3)]
        previous = []
        for from_input, gates, new, from_hidden in zip(input_parts, *buffers, strict=True):
            previous.append(hidden)
            product(bias_row, hidden, weight_t, out=from_hidden)
            torch.add(from_input[..., : 2 * size], from_hidden[..., : 2 * size], out=gates).sigmoid_()
            torch.addcmul(from_input[..., 2 * size :], gates[..., :size], from_hidden[..., 2 * size :], out=new).tanh_()
            hidden = torch.lerp(new, hidden, gates[..., size:])
        gates, new, from_hidden = (buffer.movedim(0, -3) for buffer in buffers)  # time stays outermost in memory
        states, before = (torch.stack(values).movedim(0, -3) for values in ([*previous[1:], hidden], previous))
        return states, before, gates, new, from_hidden[..., 2 * size :]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, ...], output: tuple[torch.Tensor, ...]) -> None:
        ctx.save_for_backward(inputs[1], *output[1:])
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: torch.Tensor) -> tuple[Any, Any]:
        members_first = [
            value.expand(info.batch_size, *value.shape) if dim is None else value.movedim(dim, 0)
            for value, dim in zip(inputs, in_dims, strict=True)
        ]
        return _Recurrence.apply(*members_first), (0,) * 5  # type: ignore[no-untyped-call]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        weight, before, gates, new_gates, hidden_new = ctx.saved_tensors
        grad_states = grad_outputs[0]
        assert grad_states is not None
        times, *others, size = new_gates.movedim(-3, 0).shape
        grad_input_part = new_gates.new_empty(times, *others, 3 * size).movedim(0, -3)
        grad_hidden_part = torch.empty_like(grad_input_part)
        product = torch.baddbmm if weight.ndim == 3 else torch.addmm
        grad = torch.zeros_like(new_gates[..., 0, :, :])  # of the state that the step returns
        per_step = [
            values.unbind(-3)
            for values in (grad_states, before, gates, new_gates, hidden_new, grad_input_part, grad_hidden_part)
        ]
        for grad_state, hidden, gate, new, new_from_hidden, grad_input, grad_hidden in reversed(
            list(zip(*per_step, strict=True))
        ):
            grad = grad.add_(grad_state)
            reset, update = gate[..., :size], gate[..., size:]
            grad_reset, grad_update, grad_new = grad_input.split(size, dim=-1)  # views: written in place below
            torch.addcmul(grad, grad, update, value=-1.0, out=grad_new)
            _aten.tanh_backward.grad_input(grad_new, new, grad_input=grad_new)
            torch.mul(grad_new, new_from_hidden, out=grad_reset)
            torch.sub(hidden, new, out=grad_update).mul_(grad)
            grad_gates = grad_input[..., : 2 * size]
            _aten.sigmoid_backward.grad_input(grad_gates, gate, grad_input=grad_gates)
            grad_hidden[..., : 2 * size] = grad_gates
            torch.mul(grad_new, reset, out=grad_hidden[..., 2 * size :])
            grad = product(grad.mul_(update), grad_hidden, weight)
        flat = grad_hidden_part.flatten(-3, -2)  # one product for all times
        grad_weight = flat.transpose(-1, -2) @ before.flatten(-3, -2)
        return grad_input_part, grad_weight, flat.sum(dim=-2), grad
