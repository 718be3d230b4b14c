"""Builds a member's network from the user's factory, on the member's own random stream; freezes its leading layers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import nn

from raytune_rl.population.places import network_arguments
from raytune_rl.population.randomness import START, random_stream
from raytune_rl.records import Value

Handle: TypeAlias = tuple[nn.Module, str]
"""A module and the name of its attribute that holds a dropout probability."""

SCHEMES = ("default", "xavier", "kaiming", "orthogonal")
_WEIGHTED = (nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd)
_MARK = 2.0**-30


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A network as its factory made it.

    Attributes:
        dropout: for each hyperparameter with the role dropout, the attributes that follow it.
        fixed: names of parameters that the factory has frozen (``requires_grad_(False)``); they never train.
    """

    network: nn.Module
    dropout: Mapping[str, Sequence[Handle]] = field(default_factory=dict)
    fixed: frozenset[str] = frozenset()


def arguments_of(factory: Callable[..., nn.Module], values: Mapping[str, Value]) -> dict[str, Value]:
    """The ``values`` whose names are parameters of the factory."""
    return {name: values[name] for name in network_arguments(factory) if name in values}


def build_network(
    factory: Callable[..., nn.Module],
    values: Mapping[str, Value],
    *,
    device: torch.device,
    seed: int = 0,
    dropout: Iterable[str] = (),
    initialisation: Iterable[Value] = (),
) -> Built:
    """Call the factory with the ``values`` that it has parameters for, and initialise the result.

    Args:
        values: hyperparameters by name.
        seed: of the initial weights.
        dropout: names of the hyperparameters that are dropout probabilities. The factory gets each with a tiny,
            distinct offset, which identifies the layers that it passes the value to unchanged. Thanks to the offset a
            factory that leaves out a dropout layer at zero still makes it, so that it can be changed later. A name that
            is no argument of the factory, or whose value no layer received, sets every dropout layer.
        initialisation: one of ``SCHEMES`` and a gain (> 0), in any order, both optional.

    Raises:
        ValueError: the factory returned no module, a dropout value has no layer to set, or the scheme is unknown.
    """
    arguments = arguments_of(factory, values)
    marks: dict[str, float] = {}
    for index, name in enumerate(dropout, start=1):
        value = float(values[name])
        marks[name] = value + index * _MARK * (1 if value < 0.5 else -1)
        if name in arguments:
            arguments[name] = marks[name]
    with random_stream(device, START, seed):
        network = factory(**arguments)
        if not isinstance(network, nn.Module):
            raise ValueError(f"The network function must return a torch.nn.Module, not {type(network).__name__}.")
        initialise(network, initialisation)
    handles = {name: _dropout_handles(network, mark) for name, mark in marks.items()}
    for name, attributes in handles.items():
        if not attributes:
            raise ValueError(f"The hyperparameter {name!r} is a dropout, but the network has no dropout layer to set.")
        for module, attribute in attributes:
            setattr(module, attribute, float(values[name]))
    fixed = frozenset(name for name, parameter in network.named_parameters() if not parameter.requires_grad)
    return Built(network=network.to(device), dropout=handles, fixed=fixed)


def initialise(network: nn.Module, settings: Iterable[Value]) -> None:
    """Draw the weights of linear and convolutional layers again (normal ``xavier``, normal ``kaiming`` or
    ``orthogonal``), multiply them by the gain, and set biases to zero. ``default`` only multiplies the network's own
    weights by the gain."""
    scheme, gain = "default", 1.0
    for setting in settings:
        if isinstance(setting, str):
            scheme = setting
        else:
            gain = float(setting)
    if scheme not in SCHEMES:
        raise ValueError(f"The initialisation {scheme!r} is unknown; it must be one of {', '.join(SCHEMES)}.")
    if scheme == "default" and gain == 1.0:
        return
    draw: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "xavier": nn.init.xavier_normal_,
        "kaiming": nn.init.kaiming_normal_,
        "orthogonal": nn.init.orthogonal_,
    }
    with torch.no_grad():
        for module in network.modules():
            if not isinstance(module, _WEIGHTED):
                continue
            if scheme != "default":
                draw[scheme](module.weight)
                if module.bias is not None:
                    module.bias.zero_()
            module.weight.mul_(gain)


def layers(network: nn.Module) -> list[nn.Module]:
    """The layers that ``frozen_layers`` counts, from the input on: the network's children that have parameters. If
    there is only one (such as a wrapped ``Sequential``), its children are taken instead. A network with parameters of
    its own is a single layer."""
    children = [child for child in network.children() if any(True for _ in child.parameters())]
    has_own_parameters = any(True for _ in network.parameters(recurse=False))
    if has_own_parameters or not children:
        return [network]
    return layers(children[0]) if len(children) == 1 else children


def freeze(network: nn.Module, count: int, *, fixed: Collection[str] = ()) -> int:
    """Freeze the first ``count`` layers and let the others train, except for parameters named in ``fixed``. The last
    layer always trains. Returns the number of frozen layers."""
    every_layer = layers(network)
    count = min(max(count, 0), len(every_layer) - 1)
    never = {id(parameter) for name, parameter in network.named_parameters() if name in fixed}
    for index, layer in enumerate(every_layer):
        for parameter in layer.parameters():
            parameter.requires_grad_(index >= count and id(parameter) not in never)
            if index < count:
                parameter.grad = None
    return count


def training_mode(network: nn.Module, frozen: int) -> None:
    """Like ``network.train()``, except that frozen layers keep their batch-norm statistics, too."""
    network.train()
    for layer in layers(network)[:frozen]:
        for module in layer.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase):
                module.eval()


def _dropout_handles(network: nn.Module, mark: float) -> list[Handle]:
    """The attributes that hold the marked probability; if there are none, those of every dropout layer."""
    every: list[Handle] = []
    marked: list[Handle] = []
    for module in network.modules():
        for attribute, value in vars(module).items():
            if type(value) is float and value == mark:
                marked.append((module, attribute))
        if isinstance(module, nn.modules.dropout._DropoutNd):
            every.append((module, "p"))
        elif isinstance(module, nn.MultiheadAttention | nn.RNNBase):
            every.append((module, "dropout"))
    return marked or every
