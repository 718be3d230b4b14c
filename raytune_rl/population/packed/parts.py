"""What a stack that is worked by hand is made of: for each part its way forward and its way back.

Activations lie feature-major with the examples innermost, (K, features, B) or (K, channels, *space, B): so products are
of the kinds that the libraries do best, weights need no transposition, and whatever is done to windows or classes runs
over examples side by side in memory. Whatever the way back does not need is overwritten in place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch

from raytune_rl.population.packed.activations import Activation


@dataclass(frozen=True, slots=True)
class DropoutRates:
    """Of k members at each of their network's sites: shape (k, sites), and what makes up for what is dropped."""

    rates: torch.Tensor
    makes_up: torch.Tensor

    @classmethod
    def of(cls, rates: torch.Tensor) -> DropoutRates:
        return cls(rates, (1.0 - rates).clamp(min=1e-6).reciprocal())


class Memory:
    """Memory that is used again in each step: fresh pages cost as much as the arithmetic.

    Args:
        like: a tensor of the type, and on the device, that is wanted.
    """

    def __init__(self, like: torch.Tensor) -> None:
        self._like = like
        self._held: dict[str, torch.Tensor] = {}

    @property
    def dtype(self) -> torch.dtype:
        return self._like.dtype

    def room(self, name: str, shape: Sequence[int], dtype: torch.dtype | None = None) -> torch.Tensor:
        """A tensor with nothing in it that counts. What has the same name shares its memory."""
        size = math.prod(shape)
        held = self._held.get(name)
        if held is None or held.numel() < size:
            self._held[name] = held = self._like.new_empty(size, dtype=dtype or self._like.dtype)
        return held[:size].view(tuple(shape))

    def bytes(self) -> int:
        return sum(held.numel() * held.element_size() for held in self._held.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a part stands, and for whom it works.

    Attributes:
        index: its own, among the parts.
        turn: of the memory for slopes; two take turns, so that a slope can be read while the next is written.
        shape: of what it is given, (k, features..., B).
        rows: the members.
        learns: whether a part in front of it has parameters, so that the slope of what it is given is wanted, and what
            it is given is not the network's input.
        reads: the activation that will read what the part is given on the way back, so that it must not be overwritten.
        spare: what the part is given, where that always lies in the same memory and its slope may go there, too.
        parameters, gradients: of all members, by name; gradients are written.
    """

    index: int
    turn: int
    shape: torch.Size
    rows: slice
    learns: bool
    reads: Activation | None
    spare: torch.Tensor | None
    parameters: Mapping[str, torch.Tensor]
    gradients: Mapping[str, torch.Tensor]
    memory: Memory

    def slope(self) -> torch.Tensor:
        """Memory for the slope of what the part is given."""
        return self.memory.room(f"slope {self.turn}", self.shape)


class Bound(Protocol):
    """A part with all that it works on, so that a step makes few views."""

    @property
    def shape(self) -> torch.Size:
        """Of what comes of it."""

    @property
    def reads(self) -> Activation | None:
        """The activation that will read what comes of it; see ``Place``."""

    @property
    def spare(self) -> torch.Tensor | None:
        """What comes of it, where its memory is free on the way back; see ``Place``."""

    def forward(self, hidden: torch.Tensor, dropout: DropoutRates | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What comes of ``hidden``, and what ``backward`` has to be given as ``saved``."""

    def backward(self, slope: torch.Tensor, saved: torch.Tensor | None) -> torch.Tensor:
        """Write the parameters' gradients, and return the slope of what the part was given (where it is wanted). May
        overwrite ``slope``."""


class Part(Protocol):
    """A part of a network, as far as its structure goes."""

    @property
    def learns(self) -> bool:
        """Whether it has parameters."""

    @property
    def spatial(self) -> bool:
        """Whether it goes over space; then it writes the slope of what it is given into ``Place.slope``."""

    def bind(self, place: Place) -> Bound: ...

    def outputs(self, hidden: torch.Tensor, parameters: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """What models with these ``parameters`` (n, ...) make of ``hidden`` (n, ...) in eval mode. The network's own
        input is (1, ...), and nothing may write to it (activations, which would, do not come first)."""


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear layer: the names of its parameters."""

    weight: str
    bias: str | None
    learns: ClassVar[bool] = True
    spatial: ClassVar[bool] = False

    def bind(self, place: Place) -> Bound:
        weight = place.parameters[self.weight][place.rows]
        (members, outputs, inputs), batch = weight.shape, place.shape[-1]
        wide = max(outputs, inputs) if place.learns else outputs
        # the slope goes where the output was: by then nobody reads that
        room = place.memory.room(f"linear {place.index}", (members * wide * batch,))

        def part(*shape: int) -> torch.Tensor:
            return room[: math.prod(shape)].view(shape)

        return _BoundLinear(
            weight=weight,
            turned=weight.transpose(1, 2),
            bias=None if self.bias is None else place.parameters[self.bias][place.rows].unsqueeze(2),
            weight_gradient=place.gradients[self.weight][place.rows],
            bias_gradient=None if self.bias is None else place.gradients[self.bias][place.rows],
            output=part(members, outputs, batch),
            product=place.memory.room("product", weight.shape),
            slope=part(members, inputs, batch) if place.learns else None,
        )

    def outputs(self, hidden: torch.Tensor, parameters: Mapping[str, torch.Tensor]) -> torch.Tensor:
        weight = parameters[self.weight]
        hidden = hidden.expand(len(weight), -1, -1)
        if self.bias is None:
            return torch.bmm(weight, hidden)
        return torch.baddbmm(parameters[self.bias].unsqueeze(2), weight, hidden)


@dataclass(frozen=True, slots=True)
class _BoundLinear:
    weight: torch.Tensor  # (k, out, in), a view into the flat parameters
    turned: torch.Tensor  # (k, in, out)
    bias: torch.Tensor | None  # (k, out, 1)
    weight_gradient: torch.Tensor  # the same places in the flat gradients
    bias_gradient: torch.Tensor | None  # (k, out)
    output: torch.Tensor  # (k, out, B)
    product: torch.Tensor  # (k, out, in): batched products need contiguous memory, which the gradient's is not
    slope: torch.Tensor | None  # (k, in, B); None for the first layer, whose inputs want none
    reads: ClassVar[Activation | None] = None
    spare: ClassVar[torch.Tensor | None] = None

    @property
    def shape(self) -> torch.Size:
        return self.output.shape

    def forward(self, hidden: torch.Tensor, dropout: DropoutRates | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        if self.bias is None:
            return torch.bmm(self.weight, hidden, out=self.output), hidden
        return torch.baddbmm(self.bias, self.weight, hidden, out=self.output), hidden

    def backward(self, slope: torch.Tensor, saved: torch.Tensor | None) -> torch.Tensor:
        assert saved is not None
        self.weight_gradient.copy_(torch.bmm(slope, saved.transpose(1, 2), out=self.product))
        if self.bias_gradient is not None:
            torch.sum(slope, dim=2, out=self.bias_gradient)
        return slope if self.slope is None else torch.bmm(self.turned, slope, out=self.slope)


@dataclass(frozen=True, slots=True)
class Elementwise:
    """An activation."""

    activation: Activation
    learns: ClassVar[bool] = False
    spatial: ClassVar[bool] = False

    def bind(self, place: Place) -> Bound:
        kept = self.activation.from_input
        return _BoundElementwise(
            activation=self.activation,
            copies=place.reads is not None and not kept,
            shape=place.shape,
            reads=None if kept else self.activation,
        )

    def outputs(self, hidden: torch.Tensor, parameters: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return self.activation.forward(hidden)


@dataclass(frozen=True, slots=True)
class _BoundElementwise:
    activation: Activation
    copies: bool  # what it is given must not be overwritten, which the activation would do
    shape: torch.Size
    reads: Activation | None
    spare: ClassVar[torch.Tensor | None] = None

    def forward(self, hidden: torch.Tensor, dropout: DropoutRates | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        hidden = hidden.clone() if self.copies else hidden
        found = self.activation.forward(hidden)
        return found, hidden  # which the activation has overwritten with the output, if it goes by that

    def backward(self, slope: torch.Tensor, saved: torch.Tensor | None) -> torch.Tensor:
        assert saved is not None
        self.activation.backward(slope, saved)
        return slope


@dataclass(frozen=True, slots=True)
class Dropout:
    """A place where activations are dropped, at a rate of its own (``site`` counts them)."""

    site: int
    learns: ClassVar[bool] = False
    spatial: ClassVar[bool] = False

    def bind(self, place: Place) -> Bound:
        # Where the reader sees from its masked output what was dropped, the mask need not be kept
        seen = place.reads is not None and place.reads.survives_mask
        in_place = place.learns and (place.reads is None or seen)
        return _BoundDropout(
            site=self.site,
            mask=place.memory.room("mask" if seen else f"mask {place.index}", place.shape),
            seen=seen,
            in_place=in_place,
            shape=place.shape,
            reads=place.reads if in_place else None,
        )

    def outputs(self, hidden: torch.Tensor, parameters: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return hidden


@dataclass(frozen=True, slots=True)
class _BoundDropout:
    site: int
    mask: torch.Tensor
    seen: bool
    in_place: bool
    shape: torch.Size
    reads: Activation | None
    spare: ClassVar[torch.Tensor | None] = None

    def forward(self, hidden: torch.Tensor, dropout: DropoutRates | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        if dropout is None:
            return hidden, None
        each = (-1, *[1] * (hidden.ndim - 1))
        rates, makes_up = dropout.rates[:, self.site].view(each), dropout.makes_up[:, self.site].view(each)
        # Members share the draw and differ in the rate: independent masks would cost more than the product that follows
        draw = torch.rand(hidden.shape[1:], dtype=hidden.dtype, device=hidden.device)
        mask = torch.ge(draw, rates, out=self.mask).mul_(makes_up)
        hidden = hidden.mul_(mask) if self.in_place else hidden * mask
        return hidden, makes_up if self.seen else mask

    def backward(self, slope: torch.Tensor, saved: torch.Tensor | None) -> torch.Tensor:
        return slope if saved is None else slope.mul_(saved)


@dataclass(frozen=True, slots=True)
class Reshape:
    """A flattening of the examples, or (``sizes``) its opposite."""

    sizes: tuple[int, ...] | None = None
    learns: ClassVar[bool] = False
    spatial: ClassVar[bool] = False

    def bind(self, place: Place) -> Bound:
        empty = torch.empty(place.shape, device="meta")
        return _BoundReshape(before=place.shape, shape=self.outputs(empty, {}).shape, reads=place.reads)

    def outputs(self, hidden: torch.Tensor, parameters: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return hidden.flatten(1, -2) if self.sizes is None else torch.unflatten(hidden, 1, self.sizes)


@dataclass(frozen=True, slots=True)
class _BoundReshape:
    before: torch.Size
    shape: torch.Size
    reads: Activation | None
    spare: ClassVar[torch.Tensor | None] = None

    def forward(self, hidden: torch.Tensor, dropout: DropoutRates | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        return hidden.reshape(self.shape), None

    def backward(self, slope: torch.Tensor, saved: torch.Tensor | None) -> torch.Tensor:
        return slope.view(self.before)
