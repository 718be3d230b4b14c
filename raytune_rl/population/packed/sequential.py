"""What a nested ``Sequential`` is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from raytune_rl.population.packed.activations import activation
from raytune_rl.population.packed.convolution import PackedConvolution, PackedMaxPool
from raytune_rl.population.packed.layers import PackedDropout, hooked
from raytune_rl.population.packed.parts import Dropout, Elementwise, Linear, Part, Reshape
from raytune_rl.population.packed.spatial import Convolution, MaxPool


@dataclass(frozen=True, slots=True)
class Structure:
    """Of a network that makes vectors.

    Attributes:
        dimensions: of an example that it takes; ``None`` = any.
    """

    parts: Sequence[Part]
    dimensions: int | None

    @property
    def spatial(self) -> bool:
        """Whether any part goes over space."""
        return any(part.spatial for part in self.parts)


def structure(network: nn.Module) -> Structure | None:
    """``None`` where there is a part that is not known here, that has hooks, or whose parameters another one has too;
    where none learns, or an activation comes before all that do (most would overwrite the inputs); where dimensions do
    not meet, or no vectors come of it."""
    if any(hooked(module) for module in network.modules()):
        return None
    modules = leaves(network)
    tensors = [id(tensor) for _, module in modules for tensor in module.parameters()]
    if len(set(tensors)) < len(tensors):
        return None
    parts: list[Part] = []
    sites: dict[int, int] = {}
    given: int | None = None  # dimensions of the inputs
    now: int | None = None  # dimensions at this place; None: those of the inputs, whatever they are
    untouched = True  # so far
    for name, module in modules:
        if type(module) is nn.Identity:
            continue
        takes, gives, part = _part(name, module, sites)
        if part is None or (isinstance(part, Elementwise) and not any(known.learns for known in parts)):
            return None
        if takes is not None:
            if now is not None and now != takes:
                return None
            given = takes if untouched else given
        untouched = untouched and takes is None and gives is None
        now = gives if gives is not None else takes if takes is not None else now
        parts.append(part)
    if now != 1 or not any(part.learns for part in parts):
        return None
    return Structure(_maxima_first(parts), given)


def _part(name: str, module: nn.Module, sites: dict[int, int]) -> tuple[int | None, int | None, Part | None]:
    """Dimensions of an example that it takes (``None`` = any) and gives (``None`` = the same), and the part. ``sites``
    counts places of dropout."""
    match module:
        case PackedDropout() if type(module) is PackedDropout:
            return None, None, Dropout(sites.setdefault(id(module), len(sites)))
        case nn.Linear() if type(module) is nn.Linear:
            return 1, 1, Linear(f"{name}weight", None if module.bias is None else f"{name}bias")
        case PackedConvolution():
            bias = None if module.bias is None else f"{name}bias"
            dimensions = 1 + module.geometry.space
            return dimensions, dimensions, Convolution(f"{name}weight", bias, module.geometry)
        case PackedMaxPool():
            dimensions = 1 + module.geometry.space
            return dimensions, dimensions, MaxPool(module.geometry)
        case nn.Unflatten() if (
            type(module) is nn.Unflatten
            and module.dim == 1
            and all(isinstance(size, int) for size in module.unflattened_size)
        ):
            sizes = tuple(int(size) for size in module.unflattened_size)
            return 1, len(sizes), Reshape(sizes)
    if flattens([module]):
        return None, 1, Reshape()
    found = activation(module)
    return None, None, None if found is None else Elementwise(found)


def _maxima_first(parts: Sequence[Part]) -> Sequence[Part]:
    """A maximum of rectified numbers is the rectified maximum, which is less work. The slope is the same to the bit: it
    goes to the first of the largest numbers, and nowhere where they are not above zero. (Of other activations rounding
    can make equal what was not, and so another one the first.)"""
    found = list(parts)
    for index in range(1, len(found)):
        for place in range(index, 0, -1):
            before, part = found[place - 1], found[place]
            if not (isinstance(part, MaxPool) and isinstance(before, Elementwise) and before.activation.after_maximum):
                break
            found[place - 1], found[place] = part, before
    return found


def leaves(network: nn.Module, prefix: str = "") -> Sequence[tuple[str, nn.Module]]:
    """The modules of nested ``Sequential``s in order, with the prefix of their parameters' names."""
    if type(network) is not nn.Sequential:
        return [(prefix, network)]
    found: list[tuple[str, nn.Module]] = []
    for name, child in network._modules.items():  # named_children() leaves out what comes a second time
        assert child is not None
        found += leaves(child, f"{prefix}{name}.")
    return found


def flattens(parts: Sequence[nn.Module]) -> bool:
    """Whether the first of them makes vectors of whatever it is given."""
    first = parts[0] if parts else None
    return type(first) is nn.Flatten and (first.start_dim, first.end_dim) == (1, -1)
