"""K members of one architecture as one batched program.

Tensors in, tensors out, for whoever trains many small models at once. Whether packing is worthwhile, and what is
reported of a segment, is up to the callers, ``packed.members`` and ``worlds.cohort``.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn
from torch.func import functional_call, vmap

from raytune_rl.population.networks import training_mode
from raytune_rl.population.optimisers import OptimizerName
from raytune_rl.population.packed.chunks import Chunks
from raytune_rl.population.packed.flat_parameters import FlatParameters
from raytune_rl.population.packed.layers import RATE, with_packed_layers
from raytune_rl.population.packed.losses import LossName, MemberLosses, feature_major, loss_and_grad
from raytune_rl.population.packed.memory import keep_freed_memory
from raytune_rl.population.packed.optimisers import PackedOptimizer
from raytune_rl.population.packed.settings import Settings, SettingsCache
from raytune_rl.population.packed.stack import Stack
from raytune_rl.population.packed.weights import Snapshot, Tensors, Weights


class PackedPopulation:
    """Members that train together.

    Their hyperparameters are tensors in ``settings``, to be written in place at any time.

    Args:
        networks: K networks of one architecture. They are copied, not changed.
        loss: its name, or each member's own function, called one by one; the mean over a member's batch.
        optimizer: ``"sgd"``, ``"adam"`` or ``"adamw"``.
        device: of all tensors.
        dtype: of parameters and inputs.
        fixed: names of parameters that never train, in no member.

    Raises:
        ValueError: there are no networks, or their shapes differ.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        *,
        loss: LossName | MemberLosses = "cross_entropy",
        optimizer: OptimizerName = "adam",
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        fixed: Collection[str] = (),
    ) -> None:
        if not networks:
            raise ValueError("PackedPopulation needs at least one network.")
        keep_freed_memory()
        copies = _packed_copies(networks, torch.device(device), dtype)
        self._skeleton = copies[0]
        self._count = len(copies)
        self._buffers: Tensors = _stacked([dict(network.named_buffers()) for network in copies])
        self._rate_names = [name for name in self._buffers if _is_rate(name)]
        self._flat = FlatParameters.of(copies, _stacked([dict(network.named_parameters()) for network in copies]))
        self.parameters = self._flat.parameters
        self.optimizer = PackedOptimizer(optimizer, self.parameters, self._flat.gradients, self._flat.tensor_of_column)
        self.loss = loss
        dropout = self.parameters.new_zeros(self._count, len(self._rate_names))
        for site, name in enumerate(self._rate_names):
            dropout[:, site] = self._buffers[name]
        self.settings = Settings.defaults(dropout)
        never = self.parameters.new_tensor([name in fixed for name in self._flat.columns], dtype=torch.bool)
        self._step_settings = SettingsCache(self.settings, self._flat.layer_of_tensor, never)
        self._without_gradient = torch.zeros_like(never)  # parameter tensors that the last step did not reach, (L,)
        self._some_without_gradient = False
        self._unclipped_norms = self.parameters.new_zeros(self._count)  # of the last step
        self._all_members = slice(0, self._count)
        fits = Stack.fits(self._skeleton, torch.device(device))
        self._stack = Stack(self._skeleton, self._flat.views, self._flat.gradient_views) if fits else None
        self._chunks = None if self._stack is None else Chunks(self._stack, self.parameters)
        self._forward = self._forward_alone if self._count == 1 else vmap(self._forward_one, randomness="different")
        self._predict = vmap(self._outputs_of_one, in_dims=(0, 0, None))

    def __len__(self) -> int:
        """Number of members."""
        return self._count

    # -- training ------------------------------------------------------------------------------------------------------

    def step(self, inputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        """One optimiser step of every member on a batch of its own.

        Args:
            inputs: shape (K, B, ...).
            targets: shape (K, B, ...).
            weights: of each example in its member's mean, shape (K, B), summing to one per member (smaller batches are
                padded with examples of weight zero at the end); ``None`` = all equal.

        Returns:
            The losses before the step, shape (K,).
        """
        losses = [self._step_of(rows, inputs, targets, weights) for rows in self._chunks_for(inputs)]
        return losses[0] if len(losses) == 1 else torch.cat(losses)

    def gradient_norms(self) -> torch.Tensor:
        """L2 norms of the last step's gradients before clipping, over what trains, shape (K,)."""
        norms: torch.Tensor = torch.linalg.vector_norm(self._flat.gradients, dim=1)
        return torch.where(self.settings.grad_clip > 0, self._unclipped_norms, norms)

    def update_norms(self, before: torch.Tensor) -> torch.Tensor:
        """L2 norms of the change since the parameters were ``before``, shape (K, P), relative to the norms of
        ``before``, over what trains: shape (K,)."""
        change = self.parameters - before
        if bool(self.settings.frozen_layers.any()):
            before = before * self.trainable()[:, self._flat.tensor_of_column]
        norms: torch.Tensor = torch.linalg.vector_norm(change, dim=1) / (
            torch.linalg.vector_norm(before, dim=1) + 1e-12
        )
        return norms

    def compute_gradients(
        self, inputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Losses of every member as in ``step``, without the step, but running statistics change. See ``gradient``."""
        losses = [self._losses_of(rows, inputs, targets, weights) for rows in self._chunks_for(inputs)]
        return losses[0] if len(losses) == 1 else torch.cat(losses)

    def gradient(self, name: str) -> torch.Tensor:
        """The members' last gradients of a parameter, by the network's name, shape (K, ...): not a copy."""
        return self._flat.gradient_views[name]

    def workspace_bytes(self, inputs: torch.Tensor) -> int:
        """Bytes of the buffers of a hand-written stack for one member's step on ``inputs`` (K, B, ...); 0 by vmap."""
        by_hand = self._stack is not None and self._stack.accepts(inputs.ndim - 2)
        return self._stack.workspace_bytes(inputs.shape[1:]) if by_hand and self._stack is not None else 0

    @property
    def network(self) -> nn.Module:
        """The network that is called for all members: the first one's copy, with packed layers."""
        return self._skeleton

    def trainable(self) -> torch.Tensor:
        """Which of the L parameter tensors are neither frozen nor fixed, shape (K, L), bool."""
        return self._step_settings.trainable()

    def trained(self) -> torch.Tensor:
        """Which of the L parameter tensors the last step has trained, shape (K, L), bool: of ``trainable`` those that
        the loss depends on."""
        return self.trainable() & ~self._without_gradient

    # -- predicting ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def outputs(self, inputs: torch.Tensor, models: Weights | None = None) -> torch.Tensor:
        """Outputs of every member for the same ``inputs`` (N, ...), in eval mode: shape (K, N, ...). With ``models``,
        those of n other models of the same architecture: (n, N, ...)."""
        weights = self.weights if models is None else models
        views = self._flat.views if models is None else self._flat.views_of(weights.parameters)
        if self._stack is not None and self._stack.accepts(inputs.ndim - 1):
            return self._stack.outputs(inputs, views)
        self._skeleton.eval()
        if self._count == 1:  # its layers are torch's own, which vmap may not be able to batch
            each = [weights.take(slice(model, model + 1)) for model in range(len(weights))]
            one = inputs.unsqueeze(0)
            return torch.cat(
                [self._forward_alone(self._flat.views_of(model.parameters), model.buffers, one)[0] for model in each]
            )
        outputs: torch.Tensor = self._predict(views, weights.buffers, inputs)
        return outputs

    # -- state ---------------------------------------------------------------------------------------------------------

    @property
    def weights(self) -> Weights:
        """The members' own tensors, not copies."""
        return Weights(parameters=self.parameters, buffers=self._buffers_without_rates())

    def tensors(self) -> Tensors:
        """Parameters and buffers of all members by the networks' names, shape (K, ...) each, to be read and written in
        place."""
        return self._flat.views | self._buffers_without_rates()

    @property
    def parameter_columns(self) -> Mapping[str, slice]:
        """The columns of each parameter tensor in ``parameters``, by name."""
        return self._flat.columns

    def state_dict(self, member: int) -> Tensors:
        """Copies of a member's parameters and buffers by the network's names; settings are not among them."""
        return {name: value[member].clone() for name, value in self.tensors().items()}

    def snapshot(self) -> Snapshot:
        """A copy of the state of all members: parameters, buffers and optimiser state."""
        return Snapshot(
            parameters=self.parameters.clone(),
            optimizer=[value.clone() for value in self.optimizer.buffers()],
            buffers={name: value.clone() for name, value in self._buffers_without_rates().items()},
        )

    def keep(self, members: torch.Tensor, snapshot: Snapshot) -> None:
        """Write the present state of the ``members``, a mask of shape (K,), into the snapshot."""
        for now, kept in zip(self._state(), snapshot.tensors(), strict=True):
            kept[members] = now[members]

    def copy(
        self,
        sources: Sequence[int],
        targets: Sequence[int],
        *,
        snapshot: Snapshot | None = None,
        from_snapshot: Sequence[bool] = (),
    ) -> None:
        """Members ``targets`` take over the state of members ``sources``; settings stay. All at once, so that members
        may swap. With a ``snapshot``, those marked in ``from_snapshot`` take over the source's state in it."""
        device = self.parameters.device
        source_rows, target_rows = (
            torch.as_tensor(members, dtype=torch.int64, device=device) for members in (sources, targets)
        )
        copied = [now[source_rows] for now in self._state()]
        if snapshot is not None:
            old = torch.as_tensor(from_snapshot, dtype=torch.bool, device=device)
            for values, kept in zip(copied, snapshot.tensors(), strict=True):
                values[old] = kept[source_rows[old]]
        for now, values in zip(self._state(), copied, strict=True):
            now[target_rows] = values

    def adopt(self, other: PackedPopulation, members: Sequence[int]) -> None:
        """Take over the state of K ``members`` of another population of the same architecture; settings stay."""
        rows = torch.as_tensor(members, dtype=torch.int64, device=self.parameters.device)
        for now, theirs in zip(self._state(), other._state(), strict=True):
            now.copy_(theirs[rows])
        self.optimizer.even_steps = other.optimizer.even_steps

    # -- inside --------------------------------------------------------------------------------------------------------

    def _step_of(
        self, rows: slice, inputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None
    ) -> torch.Tensor:
        """``step`` of some members; ``inputs``, ``targets`` and ``weights`` are those of all."""
        settings = self._step_settings.of(rows)
        losses = self._losses_of(rows, inputs, targets, weights)
        gradients = self._flat.gradients[rows]
        optimizer_settings = settings.optimizer
        if self._some_without_gradient:  # torch's optimisers pass over such parameters, so they do not decay either
            optimizer_settings = replace(optimizer_settings, trainable=self.trained()[rows])
        if optimizer_settings.trainable is not None:
            gradients.mul_(optimizer_settings.trainable[:, self._flat.tensor_of_column])
        if settings.grad_clip is not None:
            self._unclipped_norms[rows] = norms = torch.linalg.vector_norm(gradients, dim=1)
            factor = torch.where(settings.grad_clip > 0, (settings.grad_clip / (norms + 1e-6)).clamp(max=1.0), 1.0)
            gradients.mul_(factor.unsqueeze(1))
        self.optimizer.step(optimizer_settings, rows)
        return losses

    def _losses_of(
        self, rows: slice, inputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None
    ) -> torch.Tensor:
        """Losses of some members, shape (k,); their gradients are written. The tensors are those of all."""
        settings = self._step_settings.of(rows)
        weights = None if weights is None else weights[rows]
        if self._stack is not None and self._stack.accepts(inputs.ndim - 2):
            losses = self._stack.loss_and_gradients(
                self.loss, rows, inputs[rows], targets[rows], weights, settings.label_smoothing, settings.dropout
            )
        else:
            losses = self._loss_and_gradients_by_vmap(inputs, targets, weights, settings.label_smoothing)
        return losses

    def _chunks_for(self, inputs: torch.Tensor) -> Sequence[slice]:
        """The members that go through a step together; by vmap always all."""
        if self._chunks is None or self._stack is None or not self._stack.accepts(inputs.ndim - 2):
            return [self._all_members]
        return self._chunks.of(inputs.shape[1:])

    def _loss_and_gradients_by_vmap(
        self, inputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None, smoothing: torch.Tensor | None
    ) -> torch.Tensor:
        """Losses of all members, shape (K,); their gradients are written. Autograd around vmap does what
        ``torch.func.vjp`` would do, with less book-keeping."""
        training_mode(self._skeleton, int(self.settings.frozen_layers.min()))
        leaves = {name: view.detach().requires_grad_() for name, view in self._flat.views.items()}
        with torch.enable_grad():
            outputs, self._buffers = self._forward(leaves, self._buffers_with_present_rates(), inputs)
        detached = outputs.detach()
        if isinstance(self.loss, MemberLosses):
            losses, grad = self.loss.loss_and_grad(self._all_members, detached, targets, weights)
        else:
            feature_major_targets = targets if self.loss == "cross_entropy" else feature_major(targets)
            losses, grad = loss_and_grad(self.loss, feature_major(detached), feature_major_targets, weights, smoothing)
            grad = grad.transpose(1, 2) if detached.ndim > 2 else grad.squeeze(1)
        gradients = torch.autograd.grad(outputs, list(leaves.values()), grad, allow_unused=True)
        self._note_unreached([gradient is None for gradient in gradients])
        values = [
            (torch.zeros_like(leaf) if gradient is None else gradient).reshape(self._count, -1)
            for leaf, gradient in zip(leaves.values(), gradients, strict=True)
        ]
        torch.cat(values, dim=1, out=self._flat.gradients)
        return losses

    def _note_unreached(self, unreached: Sequence[bool]) -> None:
        """Remember which parameter tensors have got no gradient."""
        if any(unreached) or self._some_without_gradient:
            self._without_gradient = self._without_gradient.new_tensor(unreached)
            self._some_without_gradient = any(unreached)

    def _forward_one(self, parameters: Tensors, buffers: Tensors, inputs: torch.Tensor) -> tuple[torch.Tensor, Tensors]:
        """Outputs of one member, and its buffers afterwards. They are cloned first, because batch normalisation writes
        its running statistics in place; ``functional_call`` puts those that the network assigns anew into the dict."""
        tensors = parameters | {name: value.clone() for name, value in buffers.items()}
        outputs = functional_call(self._skeleton, tensors, (inputs,))
        return outputs, {name: tensors[name].detach() for name in buffers}

    def _forward_alone(
        self, parameters: Tensors, buffers: Tensors, inputs: torch.Tensor
    ) -> tuple[torch.Tensor, Tensors]:
        """``_forward_one`` of the only member, with its leading dimension of one, but without vmap."""
        parameters, buffers = ({name: value[0] for name, value in state.items()} for state in (parameters, buffers))
        outputs, buffers = self._forward_one(parameters, buffers, inputs[0])
        return outputs.unsqueeze(0), {name: value.unsqueeze(0) for name, value in buffers.items()}

    def _outputs_of_one(self, parameters: Tensors, buffers: Tensors, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = functional_call(self._skeleton, (parameters, buffers), (inputs,))
        return outputs

    def _buffers_with_present_rates(self) -> Tensors:
        return self._buffers | {name: self.settings.dropout[:, site] for site, name in enumerate(self._rate_names)}

    def _buffers_without_rates(self) -> Tensors:
        """Running statistics and the like. Dropout rates are buffers only for vmap's sake; they are settings."""
        return {name: value for name, value in self._buffers.items() if not _is_rate(name)}

    def _state(self) -> list[torch.Tensor]:
        """The tensors that make up a member's state, in the order of ``Snapshot.tensors``."""
        return [self.parameters, *self.optimizer.buffers(), *self._buffers_without_rates().values()]


def _stacked(of_members: Sequence[Mapping[str, torch.Tensor]]) -> Tensors:
    """Tensors of K members by name, stacked to shape (K, ...)."""
    return {name: torch.stack([tensors[name].detach() for tensors in of_members]) for name in of_members[0]}


def _is_rate(buffer: str) -> bool:
    """Whether the buffer of this name is a dropout rate."""
    return buffer.split(".")[-1] == RATE


def _packed_copies(networks: Sequence[nn.Module], device: torch.device, dtype: torch.dtype) -> list[nn.Module]:
    """Copies of the networks, with packed layers, in training mode; one copy of a network that is there repeatedly.

    Raises:
        ValueError: their shapes differ.
    """
    alone = len(networks) == 1  # nothing to batch, and torch's own layers are faster
    distinct = {id(network): network for network in networks}  # members may start from the same weights
    copies = {
        key: with_packed_layers(copy.deepcopy(network), alone=alone, on_gpu=device.type == "cuda")
        for key, network in distinct.items()
    }
    for network in copies.values():
        network.to(device, dtype).train()
    packed = [copies[id(network)] for network in networks]
    shapes = [{name: value.shape for name, value in network.state_dict().items()} for network in packed]
    different = next((index for index, own in enumerate(shapes) if own != shapes[0]), None)
    if different is not None:
        raise ValueError(f"Networks 0 and {different} differ in their shapes; members of a pack have one architecture.")
    return packed
