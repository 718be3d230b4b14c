"""All members at once, for networks of one architecture: one program over stacked parameters instead of a loop.

Small networks are bound by the number of calls, so eight of them cost little more than one. Stacks of linear layers
are multiplied by hand, since ``vmap`` costs more than it saves at a batch of one; ``vmap`` serves the others.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from operator import attrgetter, eq
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from raytune_rl.population.packed.sequential import flattens_first, leaf_modules

Program: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
"""Inputs (N, ...) to the outputs of all members, (K, N, ...)."""
_Activation: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
_Layer: TypeAlias = tuple[torch.Tensor, torch.Tensor | None, tuple[_Activation, ...]]
"""Weights (K, in, out), biases (K, 1, out), and what follows."""

_ELEMENTWISE: dict[type[nn.Module], _Activation] = {
    nn.ReLU: torch.relu_,  # of a layer's own output, which nobody else has
    nn.Tanh: torch.tanh_,
    nn.Sigmoid: torch.sigmoid_,
    nn.SiLU: nn.functional.silu,
    nn.GELU: nn.functional.gelu,
}
_NOTHING = (nn.Identity, nn.Dropout, nn.AlphaDropout)
"""What changes nothing in eval mode."""
_MODELESS = (nn.Linear, nn.Sequential, nn.ModuleList, *_ELEMENTWISE)
"""What does the same in training and in eval mode."""

_version, _learns, _training = attrgetter("_version"), attrgetter("requires_grad"), attrgetter("training")


class Batched:
    """One call for all ``networks``, which differ in nothing but their numbers, in eval mode.

    Holds copies of their parameters, detached, and knows when these are out of date. What torch itself does not count
    as a change, in-place edits through ``.data``, goes unseen.

    Raises:
        ValueError, RuntimeError: they are not of one architecture, or of one that cannot be vmapped.
    """

    def __init__(self, networks: nn.ModuleList) -> None:
        members = list(networks)
        if any(_architecture(member) != _architecture(members[0]) for member in members[1:]):
            raise ValueError("the members are not of one architecture")
        modules = list(networks.modules())
        self._holders = [
            held for module in modules for held in (module._modules, module._parameters, module._buffers) if held
        ]
        self._held = [dict(holder) for holder in self._holders]
        self._tensors = [*networks.parameters(), *networks.buffers()]
        self._changes = sum(map(_version, self._tensors))  # a RuntimeError for tensors of inference mode
        self._parameters = list(networks.parameters())
        self._modal = [module for module in modules if type(module) not in _MODELESS]
        self.run: Program = _linear(members) if _is_linear(members[0]) else _vmapped(members)

    def current(self) -> bool:
        """Whether the members are still those that were stacked: the same objects, unchanged. Costs a few
        microseconds, since at a batch of one little else does."""
        try:
            # dictionaries compare what is identical without looking at it, and tensors that are not by a RuntimeError
            return sum(map(_version, self._tensors)) == self._changes and all(map(eq, self._holders, self._held))
        except RuntimeError:
            return False

    def serves(self, inputs: torch.Tensor) -> bool:
        """Whether the copies can stand for the members: no gradient is to reach these, and no part of them is in
        training mode, such as dropout that is to be sampled."""
        if torch.is_grad_enabled() and (inputs.requires_grad or any(map(_learns, self._parameters))):
            return False
        return not any(map(_training, self._modal))


def alike(networks: Sequence[nn.Module], example: torch.Tensor) -> bool:
    """Whether the networks differ in nothing but their numbers: each one's weights, in the first one's place, give the
    same outputs for ``example`` (N, ...). False where that cannot be tried: it is for speed alone."""
    if any(_architecture(network) != _architecture(networks[0]) for network in networks[1:]):
        return False
    try:
        first = copy.deepcopy(networks[0]).eval()
        with torch.no_grad():
            for network in networks[1:]:
                first.load_state_dict(network.state_dict())
                if not torch.equal(first(example), network.eval()(example)):
                    return False
    except Exception:  # networks that cannot be copied (nn.utils.weight_norm), whatever a user's own may raise
        return False
    return True


def _architecture(network: nn.Module) -> tuple[list[type], dict[str, torch.Size]]:
    return [type(module) for module in network.modules()], {
        name: value.shape for name, value in network.state_dict().items()
    }


def _is_linear(network: nn.Module) -> bool:
    if any(module._forward_hooks or module._forward_pre_hooks for module in network.modules()):
        return False  # who multiplies by hand calls no module
    parts = [module for _, module in leaf_modules(network)]
    parts = parts[1:] if flattens_first(parts) else parts
    known = (nn.Linear, *_NOTHING, *_ELEMENTWISE)
    gelu = all(part.approximate == "none" for part in parts if isinstance(part, nn.GELU))
    return gelu and bool(parts) and type(parts[0]) is nn.Linear and all(type(part) in known for part in parts)


def _linear(networks: Sequence[nn.Module]) -> Program:
    """For inputs (N, ..., features): each row of features is an example of its own."""
    columns = [[module for _, module in leaf_modules(network)] for network in networks]
    flat, count = flattens_first(columns[0]), len(networks)
    steps: list[_Layer] = []
    for layer in zip(*(column[1:] if flat else column for column in columns), strict=True):
        if isinstance(layer[0], nn.Linear):
            steps.append((*_stacked(layer), ()))
        elif type(layer[0]) in _ELEMENTWISE:
            *before, (weights, biases, activations) = steps
            steps = [*before, (weights, biases, (*activations, _ELEMENTWISE[type(layer[0])]))]

    def forward(inputs: torch.Tensor) -> torch.Tensor:
        rows = inputs.flatten(1) if flat else inputs
        leading = None if rows.ndim == 2 else rows.shape[:-1]
        hidden = (rows if leading is None else rows.reshape(-1, rows.shape[-1])).expand(count, -1, -1)
        for weights, biases, activations in steps:
            hidden = torch.bmm(hidden, weights) if biases is None else torch.baddbmm(biases, hidden, weights)
            for activation in activations:
                hidden = activation(hidden)
        return hidden if leading is None else hidden.view(count, *leading, hidden.shape[-1])

    return forward


def _stacked(layer: Sequence[nn.Module]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Linear layers' weights as (K, in, out), so that a product reads them as they lie, and biases as (K, 1, out)."""
    linear = [part for part in layer if isinstance(part, nn.Linear)]
    weights = torch.stack([part.weight.detach().T for part in linear]).contiguous()
    if linear[0].bias is None:
        return weights, None
    return weights, torch.stack([part.bias.detach() for part in linear]).unsqueeze(1)


def _vmapped(networks: Sequence[nn.Module]) -> Program:
    skeleton = copy.deepcopy(networks[0]).eval()
    parameters, buffers = stack_module_state(list(networks))
    stacked = {name: value.detach() for name, value in parameters.items()}

    def one(parameters: dict[str, torch.Tensor], buffers: dict[str, torch.Tensor], inputs: torch.Tensor) -> Any:
        return functional_call(skeleton, (parameters, buffers), (inputs,))

    all_of_them = vmap(one, in_dims=(0, 0, None))

    def forward(inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = all_of_them(stacked, buffers, inputs)
        return outputs

    return forward
