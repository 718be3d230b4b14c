"""All members at once, for networks of one architecture: one program over stacked parameters instead of a loop.

Small networks are bound by the number of calls, so eight of them cost little more than one. Stacks of linear layers
are multiplied by hand, since ``vmap`` costs more than it saves at a batch of one; ``vmap`` serves the others.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from raytune_rl.population.packed.sequential import flattens_first, leaf_modules

Batched: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
"""Inputs (N, ...) to the outputs of all members, (K, N, ...)."""
_Layer: TypeAlias = tuple[torch.Tensor, torch.Tensor | None]

_ELEMENTWISE: dict[type[nn.Module], Callable[[torch.Tensor], torch.Tensor]] = {
    nn.ReLU: torch.relu,
    nn.Tanh: torch.tanh,
    nn.Sigmoid: torch.sigmoid,
    nn.SiLU: nn.functional.silu,
    nn.GELU: nn.functional.gelu,
}
_NOTHING = (nn.Identity, nn.Dropout, nn.AlphaDropout)
"""What changes nothing in eval mode."""


def batched(networks: Sequence[nn.Module]) -> Batched:
    """One call for all ``networks``, which differ in nothing but their numbers, in eval mode. Copies their parameters.

    Raises:
        ValueError, RuntimeError: they are not of one architecture, or of one that cannot be vmapped.
    """
    return _linear(networks) if _is_linear(networks[0]) else _vmapped(networks)


def alike(networks: Sequence[nn.Module], example: torch.Tensor) -> bool:
    """Whether the networks differ in nothing but their numbers: each one's weights, in the first one's place, give the
    same outputs for ``example`` (N, ...)."""
    shapes = [{name: value.shape for name, value in network.state_dict().items()} for network in networks]
    if any(found != shapes[0] for found in shapes):
        return False
    first = copy.deepcopy(networks[0]).eval()
    with torch.no_grad():
        for network in networks[1:]:
            first.load_state_dict(network.state_dict())
            if not torch.equal(first(example), network.eval()(example)):
                return False
    return True


def _is_linear(network: nn.Module) -> bool:
    if any(module._forward_hooks or module._forward_pre_hooks for module in network.modules()):
        return False  # who multiplies by hand calls no module
    parts = [module for _, module in leaf_modules(network)]
    parts = parts[1:] if flattens_first(parts) else parts
    known = (nn.Linear, *_NOTHING, *_ELEMENTWISE)
    gelu = all(part.approximate == "none" for part in parts if isinstance(part, nn.GELU))
    return gelu and type(parts[0]) is nn.Linear and all(type(part) in known for part in parts)


def _linear(networks: Sequence[nn.Module]) -> Batched:
    columns = [[module for _, module in leaf_modules(network)] for network in networks]
    flat = flattens_first(columns[0])
    steps: list[_Layer | Callable[[torch.Tensor], torch.Tensor]] = []
    for layer in zip(*(column[1:] if flat else column for column in columns), strict=True):
        if isinstance(layer[0], nn.Linear):
            # weights stand as (K, in, out): the product reads them in the order in which they lie
            weight = torch.stack([one.weight.detach().T for one in layer]).contiguous()
            bias = None if layer[0].bias is None else torch.stack([one.bias.detach() for one in layer]).unsqueeze(1)
            steps.append((weight, bias))
        elif type(layer[0]) in _ELEMENTWISE:
            steps.append(_ELEMENTWISE[type(layer[0])])
    count = len(networks)

    def forward(inputs: torch.Tensor) -> torch.Tensor:
        hidden = (inputs.flatten(1) if flat else inputs).unsqueeze(0).expand(count, -1, -1)
        for step in steps:
            if not isinstance(step, tuple):
                hidden = step(hidden)
            elif step[1] is None:
                hidden = torch.bmm(hidden, step[0])
            else:
                hidden = torch.baddbmm(step[1], hidden, step[0])
        return hidden

    return forward


def _vmapped(networks: Sequence[nn.Module]) -> Batched:
    skeleton = copy.deepcopy(networks[0]).eval()
    parameters, buffers = stack_module_state(list(networks))
    stacked = {name: value.detach() for name, value in parameters.items()}

    def one(parameters: dict[str, torch.Tensor], buffers: dict[str, torch.Tensor], inputs: torch.Tensor) -> Any:
        return functional_call(skeleton, (parameters, buffers), (inputs,))

    all_of_them = vmap(one, in_dims=(0, 0, None))

    def forward(inputs: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = all_of_them(stacked, buffers, inputs)
        return found

    return forward
