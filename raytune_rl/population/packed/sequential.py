"""Reads the layers of a (nested) ``nn.Sequential``, if all of them can be computed by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from raytune_rl.population.packed.activations import activation
from raytune_rl.population.packed.binding import StackLayer
from raytune_rl.population.packed.convolution import PackedConv1d, PackedConv2d, PackedMaxPool1d, PackedMaxPool2d
from raytune_rl.population.packed.dense import Dropout, Elementwise, Linear, Reshape
from raytune_rl.population.packed.layers import PackedDropout, hooked
from raytune_rl.population.packed.spatial import Convolution, MaxPool


@dataclass(frozen=True, slots=True)
class Structure:
    """The layers of a network whose outputs are vectors.

    Attributes:
        example_dims: number of dimensions that an example must have; ``None`` = any.
    """

    layers: Sequence[StackLayer]
    example_dims: int | None

    @property
    def spatial(self) -> bool:
        """Whether there is a convolution or pooling."""
        return any(layer.spatial for layer in self.layers)


def structure(network: nn.Module) -> Structure | None:
    """The structure of a network that can be computed by hand.

    ``None`` for any other: a layer is unknown, has hooks, or shares parameters with another one; no layer has
    parameters; an activation comes before the first that has (most would overwrite the network's inputs); the
    dimensions that a layer gives are not those that the next one takes; or the outputs are no vectors.
    """
    if any(hooked(module) for module in network.modules()):
        return None
    modules = leaf_modules(network)
    parameters = [id(parameter) for _, module in modules for parameter in module.parameters()]
    if len(set(parameters)) < len(parameters):
        return None
    layers: list[StackLayer] = []
    sites: dict[int, int] = {}
    example_dims: int | None = None
    dims: int | None = None  # of an example at this layer; None while they are those of the network's input, if any
    as_given = True  # no layer so far has fixed or changed the dimensions
    for name, module in modules:
        if type(module) is nn.Identity:
            continue
        takes, gives, layer = _layer_of(name, module, sites)
        if layer is None or (isinstance(layer, Elementwise) and not any(known.has_parameters for known in layers)):
            return None
        if takes is not None:
            if dims is not None and dims != takes:
                return None
            example_dims = takes if as_given else example_dims
        as_given = as_given and takes is None and gives is None
        dims = gives if gives is not None else takes if takes is not None else dims
        layers.append(layer)
    if dims != 1 or not any(layer.has_parameters for layer in layers):
        return None
    return Structure(_pooling_before_activation(layers), example_dims)


def _layer_of(name: str, module: nn.Module, sites: dict[int, int]) -> tuple[int | None, int | None, StackLayer | None]:
    """How many dimensions of an example ``module`` takes (``None`` = any) and gives (``None`` = the same), and the
    layer for it (``None`` = unknown). ``sites`` numbers the dropout modules by their ids."""
    match module:
        case PackedDropout() if type(module) is PackedDropout:
            return None, None, Dropout(sites.setdefault(id(module), len(sites)))
        case nn.Linear() if type(module) is nn.Linear:
            return 1, 1, Linear(f"{name}weight", None if module.bias is None else f"{name}bias")
        case PackedConv1d() | PackedConv2d():
            bias = None if module.bias is None else f"{name}bias"
            dims = 1 + module.geometry.spatial_dims
            return dims, dims, Convolution(f"{name}weight", bias, module.geometry)
        case PackedMaxPool1d() | PackedMaxPool2d():
            dims = 1 + module.geometry.spatial_dims
            return dims, dims, MaxPool(module.geometry)
        case nn.Unflatten() if (
            type(module) is nn.Unflatten
            and module.dim == 1
            and all(isinstance(size, int) for size in module.unflattened_size)
        ):
            sizes = tuple(int(size) for size in module.unflattened_size)
            return 1, len(sizes), Reshape(sizes)
    if flattens_first([module]):
        return None, 1, Reshape()
    known = activation(module)
    return None, None, None if known is None else Elementwise(known)


def _pooling_before_activation(layers: Sequence[StackLayer]) -> Sequence[StackLayer]:
    """Swap ReLUs with max pooling that follows them, so that they work on fewer elements.

    The gradients are the same to the bit: max pooling sends them to the first of the largest elements, ReLU to none
    unless it is above zero. Not so with other activations: two different inputs may round to the same output, and then
    another element would be the first."""
    swapped = list(layers)
    for start in range(1, len(swapped)):
        for index in range(start, 0, -1):
            before, layer = swapped[index - 1], swapped[index]
            if not (
                isinstance(layer, MaxPool) and isinstance(before, Elementwise) and before.activation.commutes_with_max
            ):
                break
            swapped[index - 1], swapped[index] = layer, before
    return swapped


def leaf_modules(network: nn.Module, prefix: str = "") -> Sequence[tuple[str, nn.Module]]:
    """The modules inside nested ``Sequential``s, in order, each with the prefix of its parameters' names."""
    if type(network) is not nn.Sequential:
        return [(prefix, network)]
    modules: list[tuple[str, nn.Module]] = []
    for name, child in network._modules.items():  # named_children() skips repeated modules
        assert child is not None
        modules += leaf_modules(child, f"{prefix}{name}.")
    return modules


def flattens_first(modules: Sequence[nn.Module]) -> bool:
    """Whether the first of the modules flattens each example into a vector."""
    first = modules[0] if modules else None
    return type(first) is nn.Flatten and (first.start_dim, first.end_dim) == (1, -1)
