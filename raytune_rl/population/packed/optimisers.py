"""SGD, Adam and AdamW on flat buffers of shape (members, parameters), with every setting per member.

The update rules are torch's, operation for operation (Loshchilov and Hutter 2019 for AdamW), so that a packed member
goes on where an unpacked one has stopped, and the other way round.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from raytune_rl.population.optimisers import OptimizerName

BETA2, EPSILON = 0.999, 1e-8


@dataclass(slots=True, kw_only=True)
class Settings:
    """Per member, each of shape (K,): learning rate, weight decay, momentum (the first beta of Adam)."""

    learning_rate: torch.Tensor
    weight_decay: torch.Tensor
    momentum: torch.Tensor


class PackedOptimizer:
    """The optimiser of all members.

    Args:
        kind: ``"sgd"``, ``"adam"`` or ``"adamw"``.
        parameters: shape (K, P), updated in place.
        leaves: shape (P,), to which of the L tensors of the network each column belongs. Steps are counted for each of
            them, since frozen ones stand still.
    """

    def __init__(self, kind: OptimizerName, parameters: torch.Tensor, leaves: torch.Tensor) -> None:
        self._kind = kind
        self._parameters = parameters
        self.leaves = leaves
        self.even = True  # whether all tensors of each member have made the same number of steps
        members, count = parameters.shape[0], int(leaves.max()) + 1 if leaves.numel() else 0
        self.steps = torch.zeros(members, count, dtype=parameters.dtype, device=parameters.device)
        self.first = torch.zeros_like(parameters)
        self.second = torch.zeros_like(parameters) if kind != "sgd" else None

    def step(self, gradients: torch.Tensor, settings: Settings, training: torch.Tensor | None = None) -> None:
        """One step of all members.

        Args:
            gradients: shape (K, P).
            training: shape (K, L), bool: which tensors are not frozen; ``None`` = all.
        """
        lr, decay, momentum = (
            part.unsqueeze(1) for part in (settings.learning_rate, settings.weight_decay, settings.momentum)
        )
        moving = None if training is None else training[:, self.leaves]
        before = None if moving is None else (self._parameters.clone(), self.first.clone(), self._second_clone())
        self.even = self.even and training is None
        self.steps += 1.0 if training is None else training.to(self.steps.dtype)
        if self._kind == "sgd":
            self._sgd(gradients, lr, decay, momentum)
        else:
            self._adam(gradients, lr, decay, momentum)
        if moving is not None and before is not None:
            self._parameters.copy_(torch.where(moving, self._parameters, before[0]))
            self.first.copy_(torch.where(moving, self.first, before[1]))
            if self.second is not None and before[2] is not None:
                self.second.copy_(torch.where(moving, self.second, before[2]))

    def buffers(self) -> list[torch.Tensor]:
        """The state, one row per member each. Whole rows may be copied from member to member."""
        return [buffer for buffer in (self.steps, self.first, self.second) if buffer is not None]

    def _sgd(self, gradients: torch.Tensor, lr: torch.Tensor, decay: torch.Tensor, momentum: torch.Tensor) -> None:
        gradients = torch.addcmul(gradients, self._parameters, decay)
        # torch's first step takes the gradient itself as the buffer; ours is zero then, so the same rule gives it. Nor
        # does torch touch the buffer while there is no momentum.
        moved = self.first * momentum + gradients
        self.first = torch.where(momentum == 0, self.first, moved)
        self._parameters.addcmul_(moved, lr, value=-1.0)

    def _adam(self, gradients: torch.Tensor, lr: torch.Tensor, decay: torch.Tensor, momentum: torch.Tensor) -> None:
        assert self.second is not None
        if self._kind == "adamw":
            self._parameters.mul_(1.0 - lr * decay)
        else:
            gradients = torch.addcmul(gradients, self._parameters, decay)
        self.first.lerp_(gradients, (1.0 - momentum).expand_as(gradients))
        self.second.mul_(BETA2).addcmul_(gradients, gradients, value=1.0 - BETA2)
        steps = (self.steps[:, :1] if self.even else self.steps).clamp(min=1.0)
        size, root = lr / (1.0 - momentum**steps), (1.0 - BETA2**steps).sqrt()
        if not self.even:
            size, root = size[:, self.leaves], root[:, self.leaves]
        scale = self.second.sqrt().div_(root).add_(EPSILON)
        self._parameters.sub_((self.first / scale).mul_(size))

    def _second_clone(self) -> torch.Tensor | None:
        return None if self.second is None else self.second.clone()
