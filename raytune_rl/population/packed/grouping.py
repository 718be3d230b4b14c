"""Which members of a trial can train as one program: those with the same ``GroupKey``."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import torch
from torch import nn

from raytune_rl.population.packed.layers import has_own_rate
from raytune_rl.population.packed.losses import LossName, named_loss
from raytune_rl.population.torch_member import TorchMember


@dataclass(frozen=True, slots=True)
class Architecture:
    """What never changes about a network, computed once instead of in every segment.

    Attributes:
        module_types: names of the modules' classes, in order. (A factory may choose other modules without parameters
            for other arguments, so shapes alone do not tell. Classes that are made anew for each network, as torch's
            parametrisations are, have one name.)
        shapes: of parameters and buffers, by name.
        shared_rate_modules: indices of modules whose dropout rate must be the same in all packed members.
        has_batch_norm: whether any module keeps statistics over the batch.
    """

    module_types: tuple[str, ...]
    shapes: tuple[tuple[str, torch.Size], ...]
    shared_rate_modules: tuple[int, ...]
    has_batch_norm: bool

    @classmethod
    def of(cls, network: nn.Module) -> Architecture:
        modules = list(network.modules())
        return cls(
            module_types=tuple(f"{type(module).__module__}.{type(module).__qualname__}" for module in modules),
            shapes=tuple((name, value.shape) for name, value in network.state_dict().items()),
            shared_rate_modules=tuple(i for i, module in enumerate(modules) if _shared_rate(module) is not None),
            has_batch_norm=any(_normalises_batches(module) for module in modules),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupKey:
    """What has to be equal for members to train as one program; the metadata say it in words."""

    device: str = field(metadata={"words": "its device"})
    loss: LossName | None = field(metadata={"words": "its loss"})
    module_types: tuple[str, ...] = field(metadata={"words": "its layers"})
    shapes: tuple[tuple[str, torch.Size], ...] = field(metadata={"words": "its architecture"})
    arguments: tuple[tuple[str, str], ...] = field(metadata={"words": "its network's arguments"})
    fixed: frozenset[str] = field(metadata={"words": "its fixed parameters"})
    rates: tuple[float, ...] = field(
        metadata={"words": "its dropout rates, which layers other than nn.Dropout must share"}
    )
    batch: tuple[int, int] | None = field(
        metadata={"words": "its batch size and frozen layers, which networks with batch normalisation must share"}
    )

    def differences(self, other: GroupKey) -> str:
        """The first difference to ``other``, in words: "its architecture"."""
        return next(str(f.metadata["words"]) for f in fields(self) if getattr(self, f.name) != getattr(other, f.name))


def group_key(member: TorchMember, architecture: Architecture) -> GroupKey:
    """The key of a member now: rates and batch sizes change."""
    controls = member.controls
    modules = list(controls.network.modules()) if architecture.shared_rate_modules else []
    of_modules = [_shared_rate(modules[index]) for index in architecture.shared_rate_modules]
    of_attributes = [
        getattr(module, name)
        for _, handles in sorted(controls.dropout.items())
        for module, name in handles
        if not isinstance(module, nn.modules.dropout._DropoutNd | nn.MultiheadAttention | nn.RNNBase)
    ]
    return GroupKey(
        device=str(member.device),
        loss=named_loss(controls.loss),
        module_types=architecture.module_types,
        shapes=architecture.shapes,
        arguments=tuple(sorted((name, str(value)) for name, value in member.architecture.items())),
        fixed=controls.fixed,
        rates=tuple(float(rate) for rate in (*of_modules, *of_attributes) if rate is not None),
        # Batch statistics must not include padding, and the layers whose running statistics stand still are the same in
        # one program.
        batch=(controls.batch_size, controls.frozen_layers) if architecture.has_batch_norm else None,
    )


def _shared_rate(module: nn.Module) -> float | None:
    """The rate of a dropout that has to be the same in all packed members; ``None`` for other modules, and for
    ``nn.Dropout``, whose rate each packed member can have its own of."""
    if has_own_rate(module):
        return None
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return float(module.p)
    return float(module.dropout) if isinstance(module, nn.MultiheadAttention | nn.RNNBase) else None


def _normalises_batches(module: nn.Module) -> bool:
    if isinstance(module, nn.modules.instancenorm._InstanceNorm):
        return bool(module.track_running_stats)
    return isinstance(module, nn.modules.batchnorm._NormBase)
