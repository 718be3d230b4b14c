"""Parts of a stack that go over space: convolutions and maxima, of one dimension or two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.nn import functional

from raytune_rl.population.packed.activations import Activation
from raytune_rl.population.packed.geometry import Geometry
from raytune_rl.population.packed.parts import Bound, DropoutRates, Place

_aten: Any = torch.ops.aten


@dataclass(frozen=True, slots=True, kw_only=True)
class _Making:
    """A bound part that always writes to the same memory, where on the way back nobody reads any more."""

    made: torch.Tensor  # (k, channels, *space, B)
    reads: ClassVar[Activation | None] = None

    @property
    def shape(self) -> torch.Size:
        return self.made.shape

    @property
    def spare(self) -> torch.Tensor:
        return self.made


@dataclass(frozen=True, slots=True)
class Convolution:
    """A convolution: the names of its parameters. It is one product with what each place of the kernel sees."""

    weight: str
    bias: str | None
    geometry: Geometry
    learns: ClassVar[bool] = True
    spatial: ClassVar[bool] = True

    def bind(self, place: Place) -> Bound:
        geometry, memory = self.geometry, place.memory
        weight = place.parameters[self.weight][place.rows].flatten(2)
        members, channels, batch = len(weight), place.shape[1], place.shape[-1]
        shape = geometry.padded(place.shape)
        positions = geometry.counts(shape[2:-1])
        padded = memory.room("padded", shape) if shape != place.shape else None
        columns = memory.room(f"columns {place.index}", (members, channels, *geometry.kernel, *positions, batch))
        each = columns.flatten(2, 1 + geometry.space)
        slope = place.slope() if place.learns else None
        folds: list[tuple[torch.Tensor, torch.Tensor]] = []
        if slope is not None:
            windows = zip(geometry.windows(place.shape[2:-1]), each.unbind(2), strict=True)
            folds = [(slope[inside], part[standing]) for (inside, standing), part in windows]
            folds.sort(key=lambda fold: fold[0].shape != slope.shape)  # what covers all of it can be copied
        return _BoundConvolution(
            geometry=geometry,
            weight=weight,
            turned=weight.transpose(1, 2),
            bias=None if self.bias is None else place.parameters[self.bias][place.rows].unsqueeze(2),
            weight_gradient=place.gradients[self.weight][place.rows].flatten(2).transpose(1, 2),
            bias_gradient=None if self.bias is None else place.gradients[self.bias][place.rows],
            padded=padded,
            interior=None if padded is None else padded[geometry.interior(place.shape)],
            seen=None if padded is None else geometry.seen(padded),
            places=columns,
            columns=columns.view(members, channels * geometry.places, -1),
            output=(output := memory.room(f"output {place.index}", (members, weight.shape[1], each[0, 0, 0].numel()))),
            made=output.view(members, weight.shape[1], *positions, batch),
            product=memory.room("product", (members, weight.shape[2], weight.shape[1])),
            slope=slope,
            folds=folds,
        )

    def outputs(self, hidden: torch.Tensor, parameters: Mapping[str, torch.Tensor]) -> torch.Tensor:
        weight = parameters[self.weight].flatten(2)
        columns = self.geometry.columns(hidden)
        flat = columns.flatten(3).flatten(1, 2)
        if len(flat) < len(weight):  # the same inputs for all models: one product
            found = (weight.flatten(0, 1) @ flat[0]).view(*weight.shape[:2], -1)
        else:
            found = torch.bmm(weight, flat)
        if self.bias is not None:
            found.add_(parameters[self.bias].unsqueeze(2))
        return found.view(*weight.shape[:2], *columns.shape[3:])


@dataclass(frozen=True, slots=True, kw_only=True)
class _BoundConvolution(_Making):
    geometry: Geometry
    weight: torch.Tensor  # (k, out, in x kernel), a view into the flat parameters
    turned: torch.Tensor  # (k, in x kernel, out)
    bias: torch.Tensor | None  # (k, out, 1)
    weight_gradient: torch.Tensor  # (k, in x kernel, out), a view into the flat gradients
    bias_gradient: torch.Tensor | None  # (k, out)
    padded: torch.Tensor | None  # what it is given with edges; None where there are none
    interior: torch.Tensor | None  # the view of it without edges
    seen: torch.Tensor | None  # the view of it by each place of the kernel
    places: torch.Tensor  # (k, in, *kernel, *space, B)
    columns: torch.Tensor  # the same as (k, in x kernel, space x B); their slope goes to the same memory
    output: torch.Tensor  # ``made`` as (k, out, space x B)
    product: torch.Tensor  # (k, in x kernel, out): with the larger side in front the product is faster
    slope: torch.Tensor | None  # (k, in, *space, B); None for the first layer
    folds: Sequence[tuple[torch.Tensor, torch.Tensor]]  # for each place of the kernel: what is added to which slopes

    def forward(self, hidden: torch.Tensor, dropout: DropoutRates | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        if self.padded is None or self.interior is None or self.seen is None:
            self.places.copy_(self.geometry.seen(hidden))
        else:
            self.padded.zero_()  # other layers and batches use the same memory
            self.interior.copy_(hidden)
            self.places.copy_(self.seen)
        if self.bias is None:
            torch.bmm(self.weight, self.columns, out=self.output)
        else:
            torch.baddbmm(self.bias, self.weight, self.columns, out=self.output)
        return self.made, None

    def backward(self, slope: torch.Tensor, saved: torch.Tensor | None) -> torch.Tensor:
        flat = slope.view(self.output.shape)
        self.weight_gradient.copy_(torch.bmm(self.columns, flat.transpose(1, 2), out=self.product))
        if self.bias_gradient is not None:
            torch.sum(flat, dim=2, out=self.bias_gradient)
        if self.slope is None:
            return slope
        torch.bmm(self.turned, flat, out=self.columns)
        first, *others = self.folds
        if first[0].shape == self.slope.shape:
            first[0].copy_(first[1])
        else:
            self.slope.zero_()
            first[0].add_(first[1])
        for to, part in others:
            to.add_(part)
        return self.slope


@dataclass(frozen=True, slots=True)
class MaxPool:
    """A maximum over windows: torch's own kernel, for which examples are what it knows as channels."""

    geometry: Geometry
    learns: ClassVar[bool] = False
    spatial: ClassVar[bool] = True

    def bind(self, place: Place) -> Bound:
        members, channels, *sizes, batch = place.shape
        shape = (members, channels, *self.geometry.counts(sizes), batch)
        slope = (place.slope() if place.spare is None else place.spare) if place.learns else None
        return _BoundMaxPool(
            windows=_windows(self.geometry),
            given=None if place.spare is None else _images(place.spare),
            made=(output := place.memory.room(f"output {place.index}", shape)),
            found=_images(output),
            at=_images(place.memory.room(f"at {place.index}", shape, torch.int64)),
            slope=slope,
            slopes=None if slope is None else _images(slope),
        )

    def outputs(self, hidden: torch.Tensor, parameters: Mapping[str, torch.Tensor]) -> torch.Tensor:
        members, channels, *sizes, batch = hidden.shape
        found: torch.Tensor = functional.max_pool2d(_images(hidden), *_windows(self.geometry))
        return found.permute(0, 2, 3, 1).reshape(members, channels, *self.geometry.counts(sizes), batch)


@dataclass(frozen=True, slots=True, kw_only=True)
class _BoundMaxPool(_Making):
    windows: tuple[Any, ...]
    given: torch.Tensor | None  # where it is always the same memory, as images
    found: torch.Tensor  # ``made`` as images
    at: torch.Tensor  # where each stood: of several that are equal, the first
    slope: torch.Tensor | None  # (k, channels, *space, B) of what it is given
    slopes: torch.Tensor | None  # the same as images

    def forward(self, hidden: torch.Tensor, dropout: DropoutRates | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        given = _images(hidden) if self.given is None else self.given
        _aten.max_pool2d_with_indices.out(given, *self.windows, out=self.found, indices=self.at)
        return self.made, self.at

    def backward(self, slope: torch.Tensor, saved: torch.Tensor | None) -> torch.Tensor:
        assert self.slope is not None and self.slopes is not None
        # of what the maxima were taken of, it looks at the shape only
        _aten.max_pool2d_with_indices_backward.grad_input(
            _images(slope), self.slopes, *self.windows, False, self.at, grad_input=self.slopes
        )
        return self.slope


def _images(hidden: torch.Tensor) -> torch.Tensor:
    """(k, channels, *space, B) as images (k x channels, B, height, width) whose channels lie innermost in memory."""
    flat = hidden.flatten(0, 1)
    return (flat if flat.ndim == 4 else flat.unsqueeze(1)).permute(0, 3, 1, 2)


def _windows(geometry: Geometry) -> tuple[Any, ...]:
    """What torch's kernel wants to know: a single dimension is the width."""
    more = 2 - geometry.space
    kernel, stride, dilation = geometry.kernel, geometry.stride, geometry.dilation
    return [1] * more + [*kernel], [1] * more + [*stride], [0, 0], [1] * more + [*dilation]
