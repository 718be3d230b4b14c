"""The hyperparameters of packed members: one tensor each, and what a training step makes of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from raytune_rl.population.packed.binding import DropoutRates
from raytune_rl.population.packed.optimisers import OptimizerSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of K members, to be written in place at any time; shape (K,) unless said otherwise.

    Attributes:
        learning_rate, weight_decay: of the optimiser.
        momentum: for Adam, beta1.
        label_smoothing: of cross entropy.
        grad_clip: largest L2 norm of a member's gradient; 0 = no clipping.
        dropout: rates, shape (K, dropout layers), in the network's order.
        frozen_layers: how many leading layers do not train, int64. The batch-norm statistics of a layer stand still if
            it is frozen in every member.
    """

    learning_rate: torch.Tensor
    weight_decay: torch.Tensor
    momentum: torch.Tensor
    label_smoothing: torch.Tensor
    grad_clip: torch.Tensor
    dropout: torch.Tensor
    frozen_layers: torch.Tensor

    @classmethod
    def defaults(cls, dropout: torch.Tensor) -> Settings:
        """Those of members with these ``dropout`` rates, and with their dtype and device."""
        members = len(dropout)
        return cls(
            learning_rate=dropout.new_full((members,), 1e-3),
            weight_decay=dropout.new_zeros(members),
            momentum=dropout.new_full((members,), 0.9),
            label_smoothing=dropout.new_zeros(members),
            grad_clip=dropout.new_zeros(members),
            dropout=dropout,
            frozen_layers=dropout.new_zeros(members, dtype=torch.int64),
        )

    def versions(self) -> tuple[int, ...]:
        """Numbers that change whenever a setting is written.

        Autograd counts the in-place writes to each tensor in ``_version``. So a changed setting is noticed without
        comparing values, which would cost kernels in every step and, on a GPU, wait for their results.
        """
        return (
            self.learning_rate._version,
            self.weight_decay._version,
            self.momentum._version,
            self.label_smoothing._version,
            self.grad_clip._version,
            self.dropout._version,
            self.frozen_layers._version,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSettings:
    """Settings of k members in the form in which a step uses them. ``None`` where all are zero, so that the step can
    leave out what they would do."""

    optimizer: OptimizerSettings
    label_smoothing: torch.Tensor | None  # (k,)
    grad_clip: torch.Tensor | None  # (k,)
    dropout: DropoutRates | None


class SettingsCache:
    """``StepSettings`` of groups of members, made anew only when a setting has been written.

    Args:
        settings: of all members.
        layer_of_tensor: see ``FlatParameters``.
        fixed: which of the L parameter tensors never train, in no member: shape (L,), bool.
    """

    def __init__(self, settings: Settings, layer_of_tensor: torch.Tensor, fixed: torch.Tensor) -> None:
        self._settings = settings
        self._layer_of_tensor = layer_of_tensor
        self._fixed = fixed
        self._any_fixed = bool(fixed.any())
        self._versions: tuple[int, ...] = ()
        self._prepared: dict[tuple[int, int], StepSettings] = {}

    def of(self, rows: slice) -> StepSettings:
        """Those of the members ``rows``."""
        versions = self._settings.versions()
        if versions != self._versions:
            self._versions = versions
            self._prepared.clear()
        prepared = self._prepared.get((rows.start, rows.stop))
        if prepared is None:
            prepared = self._prepared[rows.start, rows.stop] = self._prepare(rows)
        return prepared

    def trainable(self) -> torch.Tensor:
        """Which parameter tensors train, shape (K, L), bool: those that are neither fixed nor in a frozen layer. (The
        last layer cannot be frozen.)"""
        last = int(self._layer_of_tensor.max())
        in_force = self._layer_of_tensor.unsqueeze(0) >= self._settings.frozen_layers.clamp(0, last).unsqueeze(1)
        return in_force & ~self._fixed

    def _prepare(self, rows: slice) -> StepSettings:
        settings = self._settings
        momentum, weight_decay, dropout = settings.momentum[rows], settings.weight_decay[rows], settings.dropout[rows]
        first = float(momentum[0])
        all_train = not self._any_fixed and not bool(settings.frozen_layers[rows].any())
        return StepSettings(
            optimizer=OptimizerSettings(
                learning_rate=settings.learning_rate[rows].unsqueeze(1),
                momentum=momentum.unsqueeze(1),
                weight_decay=weight_decay.unsqueeze(1) if bool(weight_decay.any()) else None,
                any_momentum=bool(momentum.any()),
                all_momentum=bool(momentum.all()),
                shared_momentum=first if bool((momentum == first).all()) else None,
                trainable=None if all_train else self.trainable()[rows],
            ),
            label_smoothing=_unless_zero(settings.label_smoothing[rows]),
            grad_clip=_unless_zero(settings.grad_clip[rows]),
            dropout=DropoutRates.of(dropout) if bool(dropout.any()) else None,
        )


def _unless_zero(values: torch.Tensor) -> torch.Tensor | None:
    return values if bool(values.any()) else None
