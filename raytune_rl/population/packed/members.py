"""Trains members of a torch task together: the adapter between ``TorchMember`` and ``PackedPopulation``.

Members keep their own networks, optimisers and random streams. Before a segment their state is copied into a packed
population, after it back. That costs two copies of a small network per segment, and no other module has to know about
packing.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Sequence
from weakref import WeakKeyDictionary

import torch
from torch import nn

from raytune_rl.population.candidate import Member, SegmentResult
from raytune_rl.population.optimisers import NAMES
from raytune_rl.population.packed.batches import PackedBatches
from raytune_rl.population.packed.exchange import gather, scatter
from raytune_rl.population.packed.grouping import Architecture, GroupKey, group_key
from raytune_rl.population.packed.layers import with_packed_layers
from raytune_rl.population.packed.losses import MemberLosses, named_loss
from raytune_rl.population.packed.population import PackedPopulation
from raytune_rl.population.packed.segment import SegmentCurves, train_segment
from raytune_rl.population.packed.stack import Stack
from raytune_rl.population.packed.verification import disagreement
from raytune_rl.population.randomness import TRAIN, random_stream
from raytune_rl.population.torch_member import PROBES, TorchMember

MIN_MEMBERS = 4
"""How many members make packing with ``vmap`` worthwhile; two are enough for a hand-written stack. On a CPU it never is
for convolutional networks that are no stack. (``scripts/bench_packing --sizes``, 2026-11-28, one core of a 2-core
machine, speed relative to training one by one: an MLP with a residual connection 0.8 with two members, 1.3 with four
and 2.2 with eight; a GRU 1.1, 1.3 and 1.5; a CNN with batch norm 0.75, 0.8 and 0.9.)"""

MAX_PARAMETERS, MAX_WORKSPACE_BYTES = 150_000, 12_000_000
"""The largest member, and the largest buffers of a hand-written stack for one member's step, with which packing is
worthwhile on a CPU: beyond them, what a step of all members touches no longer stays in the cache. (The same command,
two to eight members: MLPs 1.1 to 1.6 with 55,000 parameters, 1.0 to 1.1 with 118,000, 0.6 to 0.9 with 269,000; CNNs 0.9
to 1.7 with buffers of 2 to 9 MB, 0.8 to 0.9 with 17 MB, 0.5 to 1.0 with more.)"""

CACHED_POPULATIONS = 4
"""Packed populations that are kept for the next segment."""


class TorchPack:
    """Trains members of one architecture together, whatever else differs. See ``Pack`` for what the methods promise.

    Members draw the batches that they would draw alone. Dropout masks come from a random stream that depends on all
    members of the pack: not those that a member would draw alone, but the same whenever the same members train
    together.
    """

    def __init__(self) -> None:
        self._reason: str | None = None
        self._refused: dict[GroupKey, str] = {}  # what went wrong when packing was tried
        self._min_members: dict[GroupKey, int | None] = {}
        self._populations: dict[Hashable, PackedPopulation] = {}
        self._architectures: WeakKeyDictionary[nn.Module, Architecture] = WeakKeyDictionary()

    @property
    def reason(self) -> str | None:
        return self._reason

    def train(self, members: Sequence[Member], length: int) -> Sequence[SegmentResult | Exception | None]:
        self._reason = None
        groups: dict[GroupKey, list[int]] = {}
        for index, member in enumerate(members):
            assert isinstance(member, TorchMember)
            key = group_key(member, self._architecture(member.controls.network))
            groups.setdefault(key, []).append(index)
        results: list[SegmentResult | Exception | None] = [None] * len(members)
        for key, indices in groups.items():
            if len(indices) == 1:
                others = [other for other in groups if other != key]
                self._reason = f"no other member of the trial has {key.differences(others[0])}" if others else None
                continue
            group = [member for index in indices if isinstance(member := members[index], TorchMember)]
            reason = self._refused.get(key) or _obstacle(group[0]) or self._too_few(key, group)
            group_results = None if reason is not None else self._train_group(key, group, length)
            if group_results is None:
                self._reason = reason or self._refused[key]
                continue
            for index, result in zip(indices, group_results, strict=True):
                results[index] = result
        return results

    def _architecture(self, network: nn.Module) -> Architecture:
        architecture = self._architectures.get(network)
        if architecture is None:
            architecture = self._architectures[network] = Architecture.of(network)
        return architecture

    def _too_few(self, key: GroupKey, members: Sequence[TorchMember]) -> str | None:
        """Why training one by one would be faster; ``None`` if it would not."""
        if key not in self._min_members:
            self._min_members[key] = _min_members(members[0].controls.network, members[0].device)
        least = self._min_members[key]
        if least is None:
            return "a convolutional network that is no stack of known layers trains faster one by one"
        return f"for less than {least} members of its kind packing does not pay" if len(members) < least else None

    def _train_group(
        self, key: GroupKey, members: Sequence[TorchMember], length: int
    ) -> Sequence[SegmentResult | Exception] | None:
        """A segment of members with the same group key; ``None``, with the members unchanged, if their network cannot
        be packed."""
        cache_key = (key, len(members))
        examples_before = [member.batches.examples for member in members]
        try:
            population = self._populations.pop(cache_key, None) or _verified_population(members)
            gather(members, population)
            with random_stream(members[0].device, TRAIN, *(n for m in members for n in (m.seed, m.steps))):
                curves = train_segment(population, _batches(members, length).take, length, PROBES)
        except Exception as error:  # alone the members may work, or raise what their user can understand
            for member, examples in zip(members, examples_before, strict=True):
                member.batches.examples = examples
            self._refused[key] = _one_line(error)
            return None
        scatter(population, members)
        while len(self._populations) >= CACHED_POPULATIONS:
            self._populations.pop(next(iter(self._populations)))
        self._populations[cache_key] = population
        return [_conclude(member, curves, row) for row, member in enumerate(members)]


def _conclude(member: TorchMember, curves: SegmentCurves, row: int) -> SegmentResult | Exception:
    """Validate one member. If a user's metric raises, that is a failure of this member, not of the pack."""
    with random_stream(member.device, TRAIN, member.seed, member.steps):
        try:
            return member.conclude(curves.losses[:, row], curves.gradient_norms[:, row], curves.update_norms[:, row])
        except Exception as error:
            return error


def _batches(members: Sequence[TorchMember], steps: int) -> PackedBatches:
    return PackedBatches(
        [member.batches for member in members],
        [member.controls.batch_size for member in members],
        [member.augmenter() for member in members],
        steps,
        next(members[0].controls.network.parameters()).dtype,
    )


def _verified_population(members: Sequence[TorchMember]) -> PackedPopulation:
    """A new packed population that computes what the members would compute alone.

    Raises:
        ValueError: it does not, or would be slower.
    """
    population = _population(members)
    gather(members, population)
    examples = [member.batches.examples for member in members]
    with random_stream(members[0].device, TRAIN, *(member.seed for member in members)):
        batch = _batches(members, 1).take()
        buffers = population.workspace_bytes(batch[0])
        if members[0].device.type == "cpu" and buffers > MAX_WORKSPACE_BYTES:
            raise ValueError(
                f"with {buffers / 1e6:.0f} MB of buffers per member and step, they train faster one by one"
            )
        difference = disagreement(population, [member.controls for member in members], batch)
    for member, drawn in zip(members, examples, strict=True):
        member.batches.examples = drawn
    if difference is not None:
        raise ValueError(difference)
    return population


def _population(members: Sequence[TorchMember]) -> PackedPopulation:
    task, first = members[0].task, members[0]
    dtypes = {parameter.dtype for parameter in first.controls.network.parameters()}
    if len(dtypes) != 1:
        raise TypeError(f"its parameters are of {len(dtypes)} types")
    assert isinstance(task.optimizer, str)
    name = named_loss(first.controls.loss)
    if name == "cross_entropy" and not first.batches.all_classes:
        name = None
    return PackedPopulation(
        [member.controls.network for member in members],
        loss=MemberLosses([member.controls for member in members]) if name is None else name,
        optimizer=task.optimizer,
        device=first.device,
        dtype=dtypes.pop(),
        fixed=first.controls.fixed,
    )


def _min_members(network: nn.Module, device: torch.device) -> int | None:
    """The number of members from which on packing this network is faster than training one by one; ``None`` = never."""
    if Stack.fits(with_packed_layers(copy.deepcopy(network)), device):
        return 2
    convolutional = any(isinstance(module, nn.modules.conv._ConvNd) for module in network.modules())
    return None if convolutional and device.type == "cpu" else MIN_MEMBERS


def _obstacle(member: TorchMember) -> str | None:
    """Why members like this one cannot be packed, as far as their task shows it without trying; ``None`` = it does
    not."""
    task = member.task
    if task.precision != "float32":
        return f"mixed precision ({task.precision})"
    if task.optimizer not in NAMES:
        return "an optimiser of its own"
    parameters = list(member.controls.network.parameters())
    if any(p._backward_hooks or p._post_accumulate_grad_hooks for p in parameters):
        return "a parameter has a hook"
    count = sum(parameter.numel() for parameter in parameters)
    if member.device.type == "cpu" and count > MAX_PARAMETERS:
        return f"networks of {count:,} parameters train faster one by one"
    return None


def _one_line(error: Exception) -> str:
    """The first sentence of an error's message, at most 200 characters."""
    text = " ".join(str(error).split()).split(". ")[0]
    text = text.replace("hit the vmap fallback which is currently disabled", "has no batching rule")
    return text if len(text) <= 200 else f"{text[:200]}..."
