"""The hyperparameters of K members, one number each, always in double precision on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import nn

from raytune_rl.errors import BadInput
from raytune_rl.population.networks import layers
from raytune_rl.population.packed.layout import Layout

Numbers: TypeAlias = torch.Tensor | Sequence[float] | float

DEFAULTS: Mapping[str, float] = {
    "learning_rate": 1e-3,
    "weight_decay": 0.0,
    "momentum": 0.9,
    "beta2": 0.999,
    "grad_clip": 0.0,
    "batch_size": 64,
    "dropout": 0.0,
    "label_smoothing": 0.0,
    "frozen_layers": 0,
    "augmentation": 0.0,
}


class Settings:
    """What ``PackedPopulation.write`` changes; each attribute of shape (K,), ``dropout`` of shape (K, sites).

    Attributes:
        learning_rate, weight_decay, momentum (Adam's first beta), beta2, grad_clip (0 = none), label_smoothing,
            batch_size, frozen_layers, augmentation: as ``TorchTask`` describes them.
        dropout: probability for each dropout layer of the network, in the order of ``network.modules()``.
        loss: further settings of the loss by name.
        frozen_leaves: which parameters are frozen, shape (K, leaves); ``None`` if none.
        version: counts the changes.
    """

    def __init__(self, members: int, *, network: nn.Module, layout: Layout, sites: int, examples: int) -> None:
        self.members = members
        self.examples = examples
        for name, value in DEFAULTS.items():
            if name != "dropout":
                setattr(self, name, torch.full((members,), value, dtype=torch.float64))
        self.dropout = torch.zeros(members, sites, dtype=torch.float64)
        self.loss: dict[str, torch.Tensor] = {}
        self.frozen_leaves: torch.Tensor | None = None
        self.version = 0
        found = layers(network)
        self._depth = len(found)
        owners = {id(p): index for index, layer in reversed(list(enumerate(found))) for p in layer.parameters()}
        parameters = dict(network.named_parameters())
        self._layer_of = torch.tensor([owners.get(id(parameters[leaf.name]), len(found)) for leaf in layout.leaves])
        self.write("batch_size", DEFAULTS["batch_size"])

    learning_rate: torch.Tensor
    weight_decay: torch.Tensor
    momentum: torch.Tensor
    beta2: torch.Tensor
    grad_clip: torch.Tensor
    batch_size: torch.Tensor
    label_smoothing: torch.Tensor
    frozen_layers: torch.Tensor
    augmentation: torch.Tensor

    def write(self, name: str, values: Numbers, members: torch.Tensor | Sequence[int] | slice = slice(None)) -> None:
        """Set one hyperparameter of some members. See ``PackedPopulation.write``."""
        numbers = torch.as_tensor(values, dtype=torch.float64)
        if name in DEFAULTS:
            held: torch.Tensor = getattr(self, name)
        elif name in self.loss:
            held = self.loss[name]
        else:
            known = ", ".join([*DEFAULTS, *self.loss])
            raise BadInput(f"A packed population has no hyperparameter {name!r}; it has {known}.")
        if name == "batch_size":
            numbers = numbers.round().clamp(1, self.examples)
        elif name == "frozen_layers":
            numbers = numbers.round().clamp(0, self._depth - 1)
        elif name == "dropout" and numbers.ndim == 1:
            numbers = numbers[:, None]
        held[members] = numbers
        if name == "frozen_layers":
            frozen = self._layer_of < self.frozen_layers[:, None]
            self.frozen_leaves = frozen if bool(frozen.any()) else None
        self.version += 1

    def read(self, name: str) -> torch.Tensor:
        """The values in force, a copy: shape (K,), of ``dropout`` the first layer's."""
        held: torch.Tensor = self.loss[name] if name in self.loss else getattr(self, name)
        return (held[:, 0] if name == "dropout" and held.shape[1] else held).clone().reshape(self.members, -1)[:, 0]

    def trains(self, rows: slice, columns: torch.Tensor, like: torch.Tensor) -> torch.Tensor | None:
        """1 where a parameter trains, 0 where it is frozen, shape (rows, P); ``None`` if nothing is frozen."""
        if self.frozen_leaves is None or not bool(self.frozen_leaves[rows].any()):
            return None
        return (~self.frozen_leaves[rows]).to(like)[:, columns]

    def copy(self, sources: torch.Tensor, targets: torch.Tensor) -> None:
        """Let ``targets`` take over all values of ``sources``."""
        for held in (*(getattr(self, name) for name in DEFAULTS), *self.loss.values()):
            held[targets] = held[sources]
        if self.frozen_leaves is not None:
            self.frozen_leaves[targets] = self.frozen_leaves[sources]
        self.version += 1
