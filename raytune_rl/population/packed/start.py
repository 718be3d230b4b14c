"""Starting weights for all members at once: building hundreds of networks would take longer than training them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from raytune_rl.errors import BadInput
from raytune_rl.population.networks import SCHEMES
from raytune_rl.population.packed.masks import generator_seed
from raytune_rl.population.randomness import START, random_stream

if TYPE_CHECKING:
    from raytune_rl.population.packed.population import PackedPopulation

_WEIGHTED = (nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd)
_BATCHED = (nn.Linear, nn.modules.conv._ConvNd)


def initialise(
    population: PackedPopulation, scheme: str, gain: torch.Tensor, members: torch.Tensor, seed: int | None
) -> None:
    """See ``PackedPopulation.initialise``. Distributions as ``networks.initialise`` has them."""
    if scheme not in SCHEMES:
        raise BadInput(f"The initialisation {scheme!r} is unknown; it must be one of {', '.join(SCHEMES)}.")
    seeds = population.batches.seeds[members.numpy()].tolist()
    name = generator_seed(START, *seeds) if seed is None else seed
    generator = torch.Generator().manual_seed(name)
    factors = gain.expand(len(members))
    views = population.layout.views(population.parameters)
    device = population.device
    drawn: set[str] = set()
    with torch.no_grad(), random_stream(device, START, name):
        for path, module in population.template.named_modules():
            prefix = f"{path}." if path else ""
            if isinstance(module, _WEIGHTED) and (scheme != "default" or isinstance(module, _BATCHED)):
                weights = views[f"{prefix}weight"]
                values = _draw((len(members), *weights.shape[1:]), scheme, generator, weights.dtype)
                weights[members.to(device)] = (values * factors.to(values).view(-1, *[1] * (values.ndim - 1))).to(device)
                drawn.add(f"{prefix}weight")
                if module.bias is not None:
                    bias = views[f"{prefix}bias"]
                    fresh = torch.zeros(len(members), *bias.shape[1:], dtype=bias.dtype)
                    if scheme == "default":
                        bound = 1 / math.sqrt(max(1, weights[0, 0].numel()))
                        fresh.uniform_(-bound, bound, generator=generator)
                    bias[members.to(device)] = fresh.to(device)
                    drawn.add(f"{prefix}bias")
        _reset_others(population, members, drawn)
        for buffer_name, table in population.buffers.items():
            table[members.to(device)] = population.template.get_buffer(buffer_name)
        for table in population.update.state.values():
            table[members.to(table.device)] = 0
    chosen = members.numpy()
    population.steps[chosen] = 0
    population.batches.examples[chosen] = 0


def _draw(shape: tuple[int, ...], scheme: str, generator: torch.Generator, dtype: torch.dtype) -> torch.Tensor:
    """Weights of all members at once, shape (members, outputs, inputs, ...)."""
    values = torch.empty(shape, dtype=dtype)
    field = math.prod(shape[3:])
    fan_in, fan_out = shape[2] * field, shape[1] * field
    if scheme == "default":  # what Linear and convolutions draw by themselves
        bound = 1 / math.sqrt(max(1, fan_in))
        return values.uniform_(-bound, bound, generator=generator)
    if scheme == "orthogonal":
        flat = values.view(shape[0], shape[1], -1).normal_(generator=generator)
        wide = flat.shape[1] < flat.shape[2]
        q, r = torch.linalg.qr(flat.transpose(1, 2) if wide else flat)
        q = q * torch.sign(torch.diagonal(r, dim1=1, dim2=2)).unsqueeze(1)
        return (q.transpose(1, 2) if wide else q).reshape(shape)
    deviation = math.sqrt(2 / (fan_in + fan_out)) if scheme == "xavier" else math.sqrt(2 / fan_in)
    return values.normal_(generator=generator).mul_(deviation)


def _reset_others(population: PackedPopulation, members: torch.Tensor, drawn: set[str]) -> None:
    """Layers of other kinds draw their weights themselves, one member after the other."""
    template = population.template
    others = [
        (path, module)
        for path, module in template.named_modules()
        if callable(getattr(module, "reset_parameters", None))
        and any(f"{path}.{name}" not in drawn for name, _ in module.named_parameters(recurse=False))
    ]
    if not others:
        return
    for member in members.tolist():
        row = population.layout.one(population.parameters[member])
        for path, module in others:
            module.reset_parameters()  # type: ignore[operator]
            for name, parameter in module.named_parameters(recurse=False):
                full = f"{path}.{name}" if path else name
                if full in row and full not in drawn:
                    row[full].copy_(parameter)
