"""SGD, Adam and AdamW on flat buffers of shape (members, parameters), with every setting per member.

The update rules are torch's, operation for operation (AdamW: Loshchilov and Hutter 2019), so that members can go from
a pack to torch's own optimiser and back at any step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from raytune_rl.population.optimisers import OptimizerName

BETA2, EPSILON = 0.999, 1e-8
LOG_BETA2 = math.log(BETA2)


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerSettings:
    """Settings of k members for one step.

    Attributes:
        learning_rate, momentum (for Adam: beta1): shape (k, 1).
        weight_decay: shape (k, 1); ``None`` = zero for all.
        any_momentum, all_momentum: whether any member, or every member, has a momentum other than zero.
        shared_momentum: the momentum, if it is the same for all.
        trainable: shape (k, L), bool: which parameter tensors are not frozen; ``None`` = all train.
    """

    learning_rate: torch.Tensor
    momentum: torch.Tensor
    weight_decay: torch.Tensor | None = None
    any_momentum: bool = True
    all_momentum: bool = True
    shared_momentum: float | None = None
    trainable: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class _MemberViews:
    """Views of single members, in lists as torch's fused kernel takes them."""

    addresses: tuple[int, int]  # of the gradients and the update when the views were made
    lists: tuple[list[torch.Tensor], ...]


class PackedOptimizer:
    """The optimiser of all members.

    Args:
        kind: ``"sgd"``, ``"adam"`` or ``"adamw"``.
        parameters: shape (K, P), updated in place.
        gradients: shape (K, P), read by a step and left as they are.
        tensor_of_column: shape (P,), the index of the network's parameter tensor (of L) that each column belongs to.
            Steps are counted per tensor, since frozen tensors make none.
    """

    def __init__(
        self, kind: OptimizerName, parameters: torch.Tensor, gradients: torch.Tensor, tensor_of_column: torch.Tensor
    ) -> None:
        self._kind = kind
        self._parameters = parameters
        self._gradients = gradients
        self._tensor_of_column = tensor_of_column
        self.even_steps = True  # whether all tensors of each member have made the same number of steps
        members, tensors = parameters.shape[0], int(tensor_of_column.max()) + 1 if tensor_of_column.numel() else 0
        self.steps = torch.zeros(members, tensors, dtype=parameters.dtype, device=parameters.device)
        self.first = torch.zeros_like(parameters)
        self.second = torch.zeros_like(parameters) if kind != "sgd" else None
        self._scratch = (torch.empty(0), torch.empty(0))
        self._member_views: dict[tuple[int, int], _MemberViews] = {}

    def step(self, settings: OptimizerSettings, rows: slice) -> None:
        """One step of the members ``rows``, whose settings these are."""
        parameters, trainable = self._parameters[rows], settings.trainable
        state = [parameters, self.first[rows], *([] if self.second is None else [self.second[rows]])]
        before = [] if trainable is None else [values.clone() for values in state]
        self.even_steps = self.even_steps and trainable is None
        self.steps[rows].add_(1.0 if trainable is None else trainable)
        if self._kind == "sgd":
            self._sgd(settings, rows)
        else:
            self._adam(settings, rows)
        if trainable is not None:  # undo the step where nothing trains
            columns = trainable[:, self._tensor_of_column]
            for now, old in zip(state, before, strict=True):
                now.copy_(torch.where(columns, now, old))

    def recount(self) -> None:
        """To be called after ``steps`` was written from outside."""
        self.even_steps = bool((self.steps == self.steps[:, :1]).all())

    def buffers(self) -> list[torch.Tensor]:
        """The optimiser's state, one row per member each. Whole rows may be copied from member to member."""
        return [buffer for buffer in (self.steps, self.first, self.second) if buffer is not None]

    def _sgd(self, settings: OptimizerSettings, rows: slice) -> None:
        parameters, gradients = self._parameters[rows], self._gradients[rows]
        velocity, momentum = self.first[rows], settings.momentum
        if settings.weight_decay is not None:
            decayed, _ = self._scratch_like(gradients)
            gradients = torch.addcmul(gradients, parameters, settings.weight_decay, out=decayed)
        if not settings.any_momentum:  # torch does not touch its momentum buffer then
            parameters.addcmul_(gradients, settings.learning_rate, value=-1.0)
            return
        # Torch's first step copies the gradient to the buffer. Ours starts at zero, so the general rule does the same.
        if settings.all_momentum:
            velocity.mul_(momentum).add_(gradients)
            parameters.addcmul_(velocity, settings.learning_rate, value=-1.0)
        else:
            new = velocity * momentum + gradients
            velocity.copy_(torch.where(momentum == 0, velocity, new))
            parameters.addcmul_(new, settings.learning_rate, value=-1.0)

    def _adam(self, settings: OptimizerSettings, rows: slice) -> None:
        assert self.second is not None
        parameters, gradients = self._parameters[rows], self._gradients[rows]
        first, second = self.first[rows], self.second[rows]
        lr, momentum = settings.learning_rate, settings.momentum
        decayed, scratch = self._scratch_like(gradients)
        if settings.weight_decay is not None and self._kind == "adamw":
            parameters.mul_(1.0 - lr * settings.weight_decay)
        elif settings.weight_decay is not None:
            gradients = torch.addcmul(gradients, parameters, settings.weight_decay, out=decayed)
        if settings.shared_momentum is not None and self.even_steps and gradients.device.type == "cpu":
            self._fused_update(settings.shared_momentum, gradients, scratch.zero_(), rows)
            parameters.addcmul_(scratch, lr)
            return
        first.lerp_(gradients, (1.0 - momentum).expand_as(gradients))
        second.mul_(BETA2).addcmul_(gradients, gradients, value=1.0 - BETA2)
        steps = self.steps[rows, :1] if self.even_steps else self.steps[rows].clamp(min=1.0)
        # Adam subtracts lr / (1 - beta1^t) * first / (sqrt(second) / correction + eps), where correction is
        # sqrt(1 - beta2^t). Multiplied through by correction, each pass over memory needs one number per row.
        correction = torch.expm1(steps * LOG_BETA2).neg_().sqrt_()
        factor = (momentum**steps).sub_(1.0).reciprocal_().mul_(correction).mul_(lr)  # with the minus sign
        epsilon = correction * EPSILON
        if not self.even_steps:
            factor, epsilon = factor[:, self._tensor_of_column], epsilon[:, self._tensor_of_column]
        torch.sqrt(second, out=scratch).add_(epsilon)
        parameters.addcmul_(torch.div(first, scratch, out=scratch), factor)

    def _fused_update(self, beta1: float, gradients: torch.Tensor, update: torch.Tensor, rows: slice) -> None:
        """Write Adam's update for a learning rate of one into ``update``, which has to be zeros.

        Torch's fused kernel does it in one pass over memory. It takes a step count per member, but only one learning
        rate, so the members' own are applied afterwards."""
        assert self.second is not None
        key, addresses = (rows.start, rows.stop), (gradients.data_ptr(), update.data_ptr())
        views = self._member_views.get(key)
        if views is None or views.addresses != addresses:
            tensors = (update, gradients, self.first[rows], self.second[rows], self.steps[rows, 0])
            views = _MemberViews(addresses, tuple(list(tensor.unbind(0)) for tensor in tensors))
            self._member_views[key] = views
        updates, grads, first, second, steps = views.lists
        torch._fused_adam_(
            updates,
            grads,
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

    def _scratch_like(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Two uninitialised tensors of this shape, whose memory every step uses again."""
        if self._scratch[0].numel() < like.numel() or self._scratch[0].device != like.device:
            self._scratch = (torch.empty_like(like), torch.empty_like(like))
        count = like.numel()
        one, other = (buffer.view(-1)[:count].view(like.shape) for buffer in self._scratch)
        return one, other
