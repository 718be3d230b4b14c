"""SGD, Adam and AdamW on flat buffers of shape (members, parameters), with every setting per member.

The update rules are torch's, operation for operation (Loshchilov and Hutter 2019 for AdamW), so that a packed member
goes on where an unpacked one has stopped, and the other way round.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from raytune_rl.population.optimisers import OptimizerName

BETA2, EPSILON = 0.999, 1e-8
LOG_BETA2 = math.log(BETA2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of k members for one step.

    Attributes:
        learning_rate, momentum (the first beta of Adam): shape (k, 1).
        weight_decay: shape (k, 1); ``None`` = none.
        momentum_somewhere, momentum_everywhere: whether any or each of them has a momentum that is not zero.
        shared_momentum: that of all of them, ``None`` where it differs.
        training: shape (k, L), bool: which tensors are not frozen; ``None`` = all.
    """

    learning_rate: torch.Tensor
    momentum: torch.Tensor
    weight_decay: torch.Tensor | None = None
    momentum_somewhere: bool = True
    momentum_everywhere: bool = True
    shared_momentum: float | None = None
    training: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class _Rows:
    """Views of single members, by the memory that they show."""

    address: tuple[int, int]
    lists: tuple[list[torch.Tensor], ...]


class PackedOptimizer:
    """The optimiser of all members.

    Args:
        kind: ``"sgd"``, ``"adam"`` or ``"adamw"``.
        parameters: shape (K, P), updated in place.
        gradients: shape (K, P), what a step reads, and leaves as it is.
        leaves: shape (P,), to which of the L tensors of the network each column belongs. Steps are counted for each of
            them, since frozen ones stand still.
    """

    def __init__(
        self, kind: OptimizerName, parameters: torch.Tensor, gradients: torch.Tensor, leaves: torch.Tensor
    ) -> None:
        self._kind = kind
        self._parameters = parameters
        self._gradients = gradients
        self.leaves = leaves
        self.even = True  # whether all tensors of each member have made the same number of steps
        members, count = parameters.shape[0], int(leaves.max()) + 1 if leaves.numel() else 0
        self.steps = torch.zeros(members, count, dtype=parameters.dtype, device=parameters.device)
        self.first = torch.zeros_like(parameters)
        self.second = torch.zeros_like(parameters) if kind != "sgd" else None
        self._spare = (torch.empty(0), torch.empty(0))
        self._rows: dict[tuple[int, int], _Rows] = {}

    def step(self, settings: Settings, rows: slice) -> None:
        """One step of the members ``rows``, whose settings these are."""
        parameters, training = self._parameters[rows], settings.training
        state = [parameters, self.first[rows], *([] if self.second is None else [self.second[rows]])]
        before = [] if training is None else [part.clone() for part in state]
        self.even = self.even and training is None
        self.steps[rows].add_(1.0 if training is None else training)
        if self._kind == "sgd":
            self._sgd(settings, rows)
        else:
            self._adam(settings, rows)
        if training is not None:
            moving = training[:, self.leaves]
            for now, old in zip(state, before, strict=True):
                now.copy_(torch.where(moving, now, old))

    def recount(self) -> None:
        """To be called when ``steps`` was written."""
        self.even = bool((self.steps == self.steps[:, :1]).all())

    def buffers(self) -> list[torch.Tensor]:
        """The state, one row per member each. Whole rows may be copied from member to member."""
        return [buffer for buffer in (self.steps, self.first, self.second) if buffer is not None]

    def _sgd(self, settings: Settings, rows: slice) -> None:
        parameters, gradients = self._parameters[rows], self._gradients[rows]
        moved, momentum = self.first[rows], settings.momentum
        if settings.weight_decay is not None:
            decayed, _ = self._scratch(gradients)
            gradients = torch.addcmul(gradients, parameters, settings.weight_decay, out=decayed)
        if not settings.momentum_somewhere:  # torch doesn't touch its buffer then
            parameters.addcmul_(gradients, settings.learning_rate, value=-1.0)
            return
        # torch's first step takes the gradient itself as the buffer; ours is zero then, so the same rule gives it
        if settings.momentum_everywhere:
            moved.mul_(momentum).add_(gradients)
            parameters.addcmul_(moved, settings.learning_rate, value=-1.0)
        else:
            new = moved * momentum + gradients
            moved.copy_(torch.where(momentum == 0, moved, new))
            parameters.addcmul_(new, settings.learning_rate, value=-1.0)

    def _adam(self, settings: Settings, rows: slice) -> None:
        assert self.second is not None
        parameters, gradients = self._parameters[rows], self._gradients[rows]
        first, second = self.first[rows], self.second[rows]
        lr, momentum = settings.learning_rate, settings.momentum
        decayed, scale = self._scratch(gradients)
        if settings.weight_decay is not None and self._kind == "adamw":
            parameters.mul_(1.0 - lr * settings.weight_decay)
        elif settings.weight_decay is not None:
            gradients = torch.addcmul(gradients, parameters, settings.weight_decay, out=decayed)
        if settings.shared_momentum is not None and self.even and gradients.device.type == "cpu":
            self._fused(settings.shared_momentum, gradients, scale.zero_(), rows)
            parameters.addcmul_(scale, lr)
            return
        first.lerp_(gradients, (1.0 - momentum).expand_as(gradients))
        second.mul_(BETA2).addcmul_(gradients, gradients, value=1.0 - BETA2)
        steps = self.steps[rows, :1] if self.even else self.steps[rows].clamp(min=1.0)
        # lr / (1 - b1^t) * first / (sqrt(second) / root + eps), multiplied out: one pass each by a row's number
        root = torch.expm1(steps * LOG_BETA2).neg_().sqrt_()
        size, shift = (momentum**steps).sub_(1.0).reciprocal_().mul_(root).mul_(lr), root * EPSILON
        if not self.even:
            size, shift = size[:, self.leaves], shift[:, self.leaves]
        torch.sqrt(second, out=scale).add_(shift)
        parameters.addcmul_(torch.div(first, scale, out=scale), size)

    def _fused(self, beta1: float, gradients: torch.Tensor, moved: torch.Tensor, rows: slice) -> None:
        """Write what a learning rate of one would add to the parameters into ``moved`` (zeros): torch's own kernel, one
        pass over memory, which takes a step count per member but no learning rate."""
        assert self.second is not None
        key, address = (rows.start, rows.stop), (gradients.data_ptr(), moved.data_ptr())
        held = self._rows.get(key)
        if held is None or held.address != address:
            parts = (moved, gradients, self.first[rows], self.second[rows], self.steps[rows, 0])
            self._rows[key] = held = _Rows(address, tuple(list(part.unbind(0)) for part in parts))
        moving, slopes, first, second, steps = held.lists
        torch._fused_adam_(
            moving,
            slopes,
            first,
            second,
            [],
            steps,
            lr=1.0,
            beta1=beta1,
            beta2=BETA2,
            weight_decay=0.0,
            eps=EPSILON,
            amsgrad=False,
            maximize=False,
        )

    def _scratch(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Two tensors of this shape, with nothing in them that counts."""
        if self._spare[0].numel() < like.numel() or self._spare[0].device != like.device:
            self._spare = (torch.empty_like(like), torch.empty_like(like))
        count = like.numel()
        found = [part.view(-1)[:count].view(like.shape) for part in self._spare]
        return found[0], found[1]
