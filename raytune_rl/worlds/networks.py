"""The architectures of generated tasks: stacks of linear layers, small convolutions in one and two dimensions, and a
gated recurrent network, all of which train packed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

import numpy as np
import torch
from torch import nn

from raytune_rl.worlds.draws import log_uniform

Family: TypeAlias = Literal["dense", "convolution", "image", "recurrent"]

_ACTIVATIONS: Final[dict[str, Callable[[], nn.Module]]] = {"tanh": nn.Tanh, "relu": nn.ReLU}


class Recurrent(nn.Module):
    """A gated recurrent unit (Cho et al. 2014, with the candidate's gate on its input side) over ``steps`` equal pieces
    of each input; returns the last state. It consists of linear layers, because torch's GRU has no vmap batching rule.

    Shape: (N, steps * size) -> (N, width).
    """

    def __init__(self, steps: int, size: int, width: int) -> None:
        super().__init__()
        self.steps, self.size, self.width = steps, size, width
        self.inputs, self.state = nn.Linear(size, 3 * width), nn.Linear(width, 3 * width, bias=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        pieces = self.inputs(inputs.reshape(-1, self.steps, self.size))
        state = torch.zeros_like(pieces[:, 0, : self.width])
        for step in range(self.steps):
            update, reset, new = pieces[:, step].chunk(3, dim=1)
            state_update, state_reset, state_new = self.state(state).chunk(3, dim=1)
            kept = torch.sigmoid(update + state_update)
            state = kept * state + (1 - kept) * torch.tanh(new + torch.sigmoid(reset + state_reset) * state_new)
        return state


def draw_network(rng: np.random.Generator, features: int, outputs: int, *, family: Family) -> Callable[[], nn.Module]:
    """A function that makes networks from ``features`` to ``outputs`` numbers.

    The architecture is drawn once, from ``rng``; initial weights come from torch's global generator, for each network.
    """
    width = int(log_uniform(rng, 8, 64))
    depth = int(rng.integers(1, 4))
    activation = _ACTIVATIONS[str(rng.choice(["tanh", "relu"], p=[0.3, 0.7]))]
    gain = float(log_uniform(rng, 0.4, 2.5)) if rng.random() < 0.5 else 1.0
    channels = int(rng.choice([4, 8]))
    steps = next(steps for steps in (8, 7, 6, 5, 4, 3, 2, 1) if features % steps == 0)

    def build() -> nn.Module:
        first, size = _first_layers(family, features, channels, steps, width)
        layers = list(first)
        for _ in range(1 if first else depth):
            layers += [nn.Linear(size, width), activation(), nn.Dropout(0.0)]
            size = width
        layers.append(nn.Linear(size, outputs))
        network = nn.Sequential(*layers)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(gain)
        return network

    return build


def _first_layers(family: Family, features: int, channels: int, steps: int, width: int) -> tuple[list[nn.Module], int]:
    """The layers before the linear ones, and how many numbers they output per row."""
    if family == "convolution":
        layers = [nn.Unflatten(1, (1, features)), nn.Conv1d(1, channels, 5, padding=2), nn.ReLU(), nn.MaxPool1d(2)]
        return [*layers, nn.Flatten()], channels * (features // 2)
    if family == "image":
        side = math.isqrt(features)
        layers = [nn.Unflatten(1, (1, side, side)), nn.Conv2d(1, channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        return [*layers, nn.Flatten()], channels * (side // 2) ** 2
    if family == "recurrent":
        return [Recurrent(steps, features // steps, min(width, 24))], min(width, 24)
    return [], features
