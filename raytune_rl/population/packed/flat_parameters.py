"""The parameters of K networks as one matrix, so that an optimiser step takes a few kernels, whatever the network."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from raytune_rl.population.networks import layers
from raytune_rl.population.packed.weights import Tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatParameters:
    """Parameters and gradients of K networks, each with P numbers in L tensors.

    Attributes:
        parameters, gradients: shape (K, P).
        views, gradient_views: views of both by the network's names, shape (K, ...) each.
        columns: the columns of each parameter tensor in the matrices, by name.
        tensor_of_column: index of the parameter tensor that each column belongs to, int64, shape (P,).
        layer_of_tensor: index of the layer (see ``networks.layers``) of each parameter tensor, int64, shape (L,).
    """

    parameters: torch.Tensor
    gradients: torch.Tensor
    views: Tensors
    gradient_views: Tensors
    columns: Mapping[str, slice]
    tensor_of_column: torch.Tensor
    layer_of_tensor: torch.Tensor

    @classmethod
    def of(cls, networks: Sequence[nn.Module], stacked: Mapping[str, torch.Tensor]) -> FlatParameters:
        """Copies of the parameters of K ``networks``, given ``stacked``, by name (K, ...); with zero gradients."""
        members = len(networks)
        parameters = torch.cat([value.detach().reshape(members, -1) for value in stacked.values()], dim=1)
        gradients = torch.zeros_like(parameters)
        sizes = [value[0].numel() for value in stacked.values()]
        bounds = itertools.pairwise(itertools.accumulate(sizes, initial=0))
        columns = {name: slice(*pair) for name, pair in zip(stacked, bounds, strict=True)}
        tensor_of_column = torch.cat([torch.full((size,), index) for index, size in enumerate(sizes)])
        return cls(
            parameters=parameters,
            gradients=gradients,
            views={name: parameters[:, columns[name]].view(value.shape) for name, value in stacked.items()},
            gradient_views={name: gradients[:, columns[name]].view(value.shape) for name, value in stacked.items()},
            columns=columns,
            tensor_of_column=tensor_of_column.to(parameters.device),
            layer_of_tensor=_layers_of(networks[0], list(stacked)).to(parameters.device),
        )

    def views_of(self, parameters: torch.Tensor) -> Tensors:
        """Other parameters of the same architecture, shape (n, P), by the network's names: shape (n, ...) each."""
        return {
            name: parameters[:, columns].view(-1, *self.views[name].shape[1:]) for name, columns in self.columns.items()
        }


def _layers_of(network: nn.Module, names: Sequence[str]) -> torch.Tensor:
    """The index of the layer that each parameter belongs to, int64."""
    layer_of: dict[int, int] = {}
    for index, layer in enumerate(layers(network)):
        for parameter in layer.parameters():
            layer_of[id(parameter)] = index
    parameters = dict(network.named_parameters())
    return torch.tensor([layer_of[id(parameters[name])] for name in names], dtype=torch.int64)
