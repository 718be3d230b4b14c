"""Trains members of a torch task together: what stands between ``TorchMember`` and ``PackedPopulation``.

Members keep their own networks, optimisers and random streams. At the start of a segment their state is written into
a packed population, at its end it is written back: two copies of a small network per segment, for which nobody but this
module has to know of packing.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import nn

from raytune_rl.population.candidate import Member, SegmentResult
from raytune_rl.population.optimisers import NAMES
from raytune_rl.population.packed.examples import Examples
from raytune_rl.population.packed.exchange import gather, scatter
from raytune_rl.population.packed.layers import with_packed_layers
from raytune_rl.population.packed.losses import Objective, named_loss
from raytune_rl.population.packed.population import PackedPopulation
from raytune_rl.population.packed.stack import Stack
from raytune_rl.population.randomness import TRAIN, random_stream
from raytune_rl.population.torch_member import PROBES, TorchMember

FEWEST, FEWEST_CONVOLUTIONAL = 4, 8
"""Members from which on packing pays where it goes through ``vmap``; for stacks by hand two are enough. (Segments of 50
steps on a core, 2026-11-28: a CNN by hand x2.7 with two and x4.0 with eight, one with batch norm, so by ``vmap``, x0.7,
x1.0 with four and x1.2 with eight.)"""

POPULATIONS = 4
"""Packed populations that are kept for the next segment."""


class TorchPack:
    """See ``Pack`` for what the methods promise. Members of one architecture go together, whatever else differs.

    Members draw the batches that they would draw alone. Masks of dropout come from a stream named by all members of
    the pack: other numbers than each draws alone, the same whenever the same members train together.
    """

    def __init__(self) -> None:
        self._reason: str | None = None
        self._refused: dict[Hashable, str] = {}  # architectures that have shown that they cannot be packed
        self._fewest: dict[Hashable, int] = {}
        self._populations: dict[Hashable, PackedPopulation] = {}
        self._builds: WeakKeyDictionary[nn.Module, _Build] = WeakKeyDictionary()

    @property
    def reason(self) -> str | None:
        return self._reason

    def train(self, members: Sequence[Member], length: int) -> Sequence[SegmentResult | Exception | None]:
        self._reason = None
        groups: dict[Hashable, list[int]] = {}
        for index, member in enumerate(members):
            assert isinstance(member, TorchMember)
            groups.setdefault(_kind(member, self._build(member.controls.network)), []).append(index)
        results: list[SegmentResult | Exception | None] = [None] * len(members)
        for kind, indices in groups.items():
            if len(indices) == 1:
                self._reason = "no other member of the trial has its architecture" if len(members) > 1 else None
                continue
            chosen = [member for index in indices if isinstance(member := members[index], TorchMember)]
            reason = self._refused.get(kind) or _obstacle(chosen[0]) or self._too_few(kind, chosen)
            found = None if reason is not None else self._train_group(kind, chosen, length)
            if found is None:
                self._reason = reason or self._refused[kind]
                continue
            for index, result in zip(indices, found, strict=True):
                results[index] = result
        return results

    def _build(self, network: nn.Module) -> _Build:
        found = self._builds.get(network)
        if found is None:
            found = self._builds[network] = _Build.of(network)
        return found

    def _too_few(self, kind: Hashable, members: Sequence[TorchMember]) -> str | None:
        """Why one by one would be faster, if it would."""
        if kind not in self._fewest:
            self._fewest[kind] = _fewest(members[0].controls.network, members[0].device)
        fewest = self._fewest[kind]
        return f"for less than {fewest} members of its kind packing does not pay" if len(members) < fewest else None

    def _train_group(
        self, kind: Hashable, members: Sequence[TorchMember], length: int
    ) -> Sequence[SegmentResult | Exception] | None:
        """Segments of members that look alike; ``None`` (and nothing has happened) if their network refuses."""
        key = (kind, len(members))
        handed_out = [member.batches.examples for member in members]
        try:
            population = self._populations.pop(key, None) or _population(members)
            gather(members, population)
            with random_stream(members[0].device, TRAIN, *(n for m in members for n in (m.seed, m.steps))):
                measured = _segment(population, members, length)
        except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
            for member, examples in zip(members, handed_out, strict=True):
                member.batches.examples = examples
            self._refused[kind] = _line(error)
            return None
        scatter(population, members)
        while len(self._populations) >= POPULATIONS:
            self._populations.pop(next(iter(self._populations)))
        self._populations[key] = population
        return [_concluded(member, [values[:, column] for values in measured]) for column, member in enumerate(members)]


def _concluded(member: TorchMember, measured: Sequence[torch.Tensor]) -> SegmentResult | Exception:
    """The end of one member's segment: a user's metric that raises is that member's failure, and not the pack's."""
    with random_stream(member.device, TRAIN, member.seed, member.steps):
        try:
            return member.conclude(*measured)
        except Exception as error:
            return error


def _segment(
    population: PackedPopulation, members: Sequence[TorchMember], length: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Train, and return the losses (length, K) and the norms of gradients and updates (probes, K)."""
    examples = Examples(
        [member.batches for member in members],
        [member.controls.batch_size for member in members],
        [member.augmenter() for member in members],
        length,
    )
    every = max(1, length // PROBES)
    losses: list[torch.Tensor] = []
    gradients: list[torch.Tensor] = []
    updates: list[torch.Tensor] = []
    for step in range(length):
        probe = step % every == 0
        before = population.parameters.clone() if probe else None
        losses.append(population.step(*examples.take()))
        if before is not None:
            gradients.append(population.gradient_norms())
            updates.append(population.update_norms(before))
    return torch.stack(losses), torch.stack(gradients), torch.stack(updates)


def _population(members: Sequence[TorchMember]) -> PackedPopulation:
    task, first = members[0].task, members[0]
    kinds = {parameter.dtype for parameter in first.controls.network.parameters()}
    if len(kinds) != 1:
        raise TypeError(f"its parameters are of {len(kinds)} types")
    assert isinstance(task.optimizer, str)
    name = named_loss(first.controls.loss)
    if name == "cross_entropy" and not first.batches.all_classes:
        name = None
    objective = Objective([member.controls for member in members]) if name is None else name
    return PackedPopulation(
        [member.controls.network for member in members],
        loss=objective,
        optimizer=task.optimizer,
        device=first.device,
        dtype=kinds.pop(),
    )


def _fewest(network: nn.Module, device: torch.device) -> int:
    """The number of members from which on packing this network is faster than the plain loop."""
    if Stack.fits(with_packed_layers(copy.deepcopy(network)), device):
        return 2
    convolutional = any(isinstance(module, nn.modules.conv._ConvNd) for module in network.modules())
    return FEWEST_CONVOLUTIONAL if convolutional else FEWEST


def _obstacle(member: TorchMember) -> str | None:
    """Why members of this kind cannot be packed, as far as that can be told without trying."""
    task = member.task
    if task.precision != "float32":
        return f"mixed precision ({task.precision})"
    if task.optimizer not in NAMES:
        return "an optimiser of its own"
    return None


@dataclass(frozen=True, slots=True)
class _Build:
    """What stays the same of a network as long as it lives, so that not every segment asks each module.

    Attributes:
        modules: their types, in order. Factories may make other modules without parameters for other arguments.
        shapes: of parameters and buffers, by name.
        rated: places of modules with a rate that packed members cannot have each their own of.
        normal: whether any normalises by statistics of the batch.
    """

    modules: tuple[type[nn.Module], ...]
    shapes: tuple[tuple[str, torch.Size], ...]
    rated: tuple[int, ...]
    normal: bool

    @classmethod
    def of(cls, network: nn.Module) -> _Build:
        modules = list(network.modules())
        return cls(
            modules=tuple(type(module) for module in modules),
            shapes=tuple((name, value.shape) for name, value in network.state_dict().items()),
            rated=tuple(place for place, module in enumerate(modules) if _other_rate(module) is not None),
            normal=any(isinstance(module, nn.modules.batchnorm._NormBase) for module in modules),
        )


def _kind(member: TorchMember, build: _Build) -> Hashable:
    """What members that go together have in common: whatever is not a tensor of the same shape."""
    controls = member.controls
    modules = list(controls.network.modules()) if build.rated else []
    rates = tuple(_other_rate(modules[place]) for place in build.rated)
    architecture = tuple(sorted((name, str(value)) for name, value in member.architecture.items()))
    # statistics of a batch must be those of its own examples, and frozen layers keep theirs
    batch = (controls.batch_size, controls.frozen_layers) if build.normal else None
    return (str(member.device), named_loss(controls.loss), build.modules, build.shapes, rates, architecture, batch)


def _other_rate(module: nn.Module) -> float | None:
    """The rate of a dropout that packed members cannot have each their own of."""
    if type(module) is nn.Dropout:
        return None
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return float(module.p)
    return float(module.dropout) if isinstance(module, nn.MultiheadAttention | nn.RNNBase) else None


def _line(error: Exception) -> str:
    text = " ".join(str(error).split()).split(". ")[0]
    return text if len(text) <= 200 else f"{text[:200]}..."
