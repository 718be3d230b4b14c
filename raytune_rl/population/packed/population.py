"""K members of one architecture as one batched program.

The member's side of it (snapshots, signals, choosing between packing and the plain loop) is not in here: this is
numbers in, tensors out, for whoever trains many small models at once.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from raytune_rl.population.networks import layers, training_mode
from raytune_rl.population.optimisers import OptimizerName
from raytune_rl.population.packed.layers import RATE, with_packed_layers
from raytune_rl.population.packed.losses import LossName, Objective, feature_major, loss_and_slope
from raytune_rl.population.packed.memory import keep_freed_memory
from raytune_rl.population.packed.optimisers import PackedOptimizer, Settings
from raytune_rl.population.packed.parts import DropoutRates
from raytune_rl.population.packed.stack import Stack
from raytune_rl.population.packed.weights import Snapshot, Tensors, Weights

SETTINGS = (
    "learning_rate",
    "weight_decay",
    "momentum",
    "label_smoothing",
    "grad_clip",
    "dropout",
    "frozen_layers",
)

CHUNK_BYTES = 2**22
"""About so many bytes of parameters, gradients and moments are in work at once on a CPU: they should stay in its
second-level cache from the forward pass to the optimiser's step."""

SPATIAL_BYTES = 2**24
"""The same where what goes over space is in work, which counts then. More than the cache holds: smaller parts make more
calls than they save memory's time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _InForce:
    """Settings of some members, shape (k,) each; ``None`` where all are zero, so that nothing is done for them."""

    settings: Settings
    label_smoothing: torch.Tensor | None
    grad_clip: torch.Tensor | None
    dropout: DropoutRates | None


class PackedPopulation:
    """Members that train together.

    Settings are attributes of shape (K,), to be written in place at any time: ``learning_rate``, ``weight_decay``,
    ``momentum``, ``label_smoothing`` (of cross entropy), ``grad_clip`` (largest L2 norm; 0 = none), ``dropout`` (of
    shape (K, dropout layers), in the network's order), ``frozen_layers`` (leading layers that do not train, int64;
    their batch-norm statistics stand still where they are frozen in every member).

    Args:
        networks: K networks that differ in nothing but their numbers. They are not changed.
        loss: its name, or any losses, called one by one; the mean over a member's batch.
        optimizer: ``"sgd"``, ``"adam"`` or ``"adamw"``.
        device: where all of it lives.
        dtype: of parameters and inputs.

    Raises:
        ValueError: there are none, or their shapes differ.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        *,
        loss: LossName | Objective = "cross_entropy",
        optimizer: OptimizerName = "adam",
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if not networks:
            raise ValueError("PackedPopulation needs at least one network.")
        keep_freed_memory()
        alone = len(networks) == 1  # then there is nothing to batch, and torch's own layers are faster
        on_gpu = torch.device(device).type == "cuda"
        different = {id(network): network for network in networks}  # members may start from the same weights
        own = {
            key: with_packed_layers(copy.deepcopy(network), alone=alone, on_gpu=on_gpu).to(device, dtype)
            for key, network in different.items()
        }
        copies = [own[id(network)] for network in networks]
        for network in copies:
            network.train().requires_grad_(True)  # a stack takes no mixture
        shapes = [{name: value.shape for name, value in network.state_dict().items()} for network in copies]
        odd = next((index for index, found in enumerate(shapes) if found != shapes[0]), None)
        if odd is not None:
            raise ValueError(f"Networks 0 and {odd} differ in their shapes; members of a pack have one architecture.")
        self._skeleton = copies[0]
        parameters, buffers = stack_module_state(copies)
        self._buffers: Tensors = dict(buffers)
        self._count = len(copies)
        self.parameters = torch.cat([value.detach().reshape(self._count, -1) for value in parameters.values()], dim=1)
        self._gradients = torch.zeros_like(self.parameters)
        self._views: Tensors = {}
        gradient_views: Tensors = {}
        leaves, first = [], 0
        for index, (name, value) in enumerate(parameters.items()):
            size = value[0].numel()
            self._views[name] = self.parameters[:, first : first + size].view(value.shape)
            gradient_views[name] = self._gradients[:, first : first + size].view(value.shape)
            leaves.append(torch.full((size,), index))
            first += size
        self._layer_of_leaf = _layers_of(self._skeleton, list(parameters)).to(device)
        self.optimizer = PackedOptimizer(optimizer, self.parameters, self._gradients, torch.cat(leaves).to(device))
        self.loss = loss
        self.learning_rate = self._setting(1e-3)
        self.weight_decay = self._setting(0.0)
        self.momentum = self._setting(0.9)
        self.label_smoothing = self._setting(0.0)
        self.grad_clip = self._setting(0.0)
        self.frozen_layers = torch.zeros(self._count, dtype=torch.int64, device=device)
        self._rates = [name for name in self._buffers if name.split(".")[-1] == RATE]
        self.dropout = self.parameters.new_zeros(self._count, len(self._rates))
        for site, name in enumerate(self._rates):
            self.dropout[:, site] = self._buffers[name]
        fits = Stack.fits(self._skeleton, torch.device(device))
        self._stack = Stack(self._skeleton, self._views, gradient_views) if fits else None
        self._whole = [slice(0, self._count)]
        self._chunks: dict[torch.Size, Sequence[slice]] = {}
        self._norms = self._setting(0.0)
        self._written: tuple[int, ...] = ()
        self._ready: dict[tuple[int, int], _InForce] = {}
        self._forward = self._alone if alone else vmap(self._member_forward, randomness="different")
        self._predict = vmap(self._member_outputs, in_dims=(0, 0, None))

    def __len__(self) -> int:
        """Members."""
        return self._count

    def step(self, inputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        """One optimiser step of every member on a batch of its own.

        Args:
            inputs: shape (K, B, ...).
            targets: shape (K, B, ...).
            weights: shape (K, B): of each example in its member's mean, summing to one per member (a member with a
                smaller batch has zeros at the end); ``None`` = all equal.

        Returns:
            The losses, shape (K,), as they were before the step.
        """
        losses = [self._step(rows, inputs, targets, weights) for rows in self._together(inputs)]
        return losses[0] if len(losses) == 1 else torch.cat(losses)

    def _step(
        self, rows: slice, inputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None
    ) -> torch.Tensor:
        """``step`` for some members."""
        now = self._in_force(rows)
        weights = None if weights is None else weights[rows]
        if self._stack is not None and self._stack.takes(inputs.ndim - 2):
            losses = self._stack.loss_and_gradients(
                self.loss, rows, inputs[rows], targets[rows], weights, now.label_smoothing, now.dropout
            )
        else:
            losses = self._differentiated(inputs, targets, weights, now.label_smoothing)
        gradients = self._gradients[rows]
        if now.settings.training is not None:
            gradients.mul_(now.settings.training[:, self.optimizer.leaves])
        if now.grad_clip is not None:
            self._norms[rows] = norms = torch.linalg.vector_norm(gradients, dim=1)
            factor = torch.where(now.grad_clip > 0, (now.grad_clip / (norms + 1e-6)).clamp(max=1.0), 1.0)
            gradients.mul_(factor.unsqueeze(1))
        self.optimizer.step(now.settings, rows)
        return losses

    @torch.no_grad()
    def outputs(self, inputs: torch.Tensor, models: Weights | None = None) -> torch.Tensor:
        """What every member makes of the same ``inputs`` (N, ...), in eval mode: shape (K, N, ...); or what other
        ``models`` of the same architecture make of them, n of them: (n, N, ...)."""
        given = self.weights if models is None else models
        views = self._views if models is None else self._views_of(given.parameters)
        if self._stack is not None and self._stack.takes(inputs.ndim - 1):
            return self._stack.outputs(inputs, views)
        self._skeleton.eval()
        if self._count == 1:  # its layers have no batching rules
            each = [given.take(slice(model, model + 1)) for model in range(len(given))]
            one = inputs.unsqueeze(0)
            return torch.cat([self._alone(self._views_of(part.parameters), part.buffers, one)[0] for part in each])
        found: torch.Tensor = self._predict(views, given.buffers, inputs)
        return found

    @property
    def weights(self) -> Weights:
        """The members' own, in place."""
        return Weights(parameters=self.parameters, buffers=self._own_buffers())

    def gradient_norms(self) -> torch.Tensor:
        """L2 norms of the last step's gradients before clipping, over what trains, shape (K,)."""
        norms: torch.Tensor = torch.linalg.vector_norm(self._gradients, dim=1)
        return torch.where(self.grad_clip > 0, self._norms, norms)

    def update_norms(self, before: torch.Tensor) -> torch.Tensor:
        """How far the parameters have moved since they were ``before``, shape (K, P), relative to that, over what
        trains: shape (K,)."""
        moved = self.parameters - before
        if bool(self.frozen_layers.any()):
            before = before * self.trained()[:, self.optimizer.leaves]
        found: torch.Tensor = torch.linalg.vector_norm(moved, dim=1) / (torch.linalg.vector_norm(before, dim=1) + 1e-12)
        return found

    def snapshot(self) -> Snapshot:
        """All that ``copy`` copies, of all members."""
        return Snapshot(
            parameters=self.parameters.clone(),
            optimizer=[value.clone() for value in self.optimizer.buffers()],
            buffers={name: value.clone() for name, value in self._own_buffers().items()},
        )

    def keep(self, members: torch.Tensor, snapshot: Snapshot) -> None:
        """Write the present state of ``members`` (K,), bool, into the snapshot."""
        pairs = zip(self._state(), snapshot.tensors(), strict=True)
        for now, kept in pairs:
            kept[members] = now[members]

    def copy(
        self,
        sources: Sequence[int],
        targets: Sequence[int],
        *,
        snapshot: Snapshot | None = None,
        from_snapshot: Sequence[bool] = (),
    ) -> None:
        """Members ``targets`` take weights, buffers and optimiser state of ``sources``; settings stay their own. All at
        once, so that members may swap. With a ``snapshot``, those that ``from_snapshot`` marks take what it holds."""
        device = self.parameters.device
        take, put = (torch.as_tensor(indices, dtype=torch.int64, device=device) for indices in (sources, targets))
        taken = [now[take] for now in self._state()]
        if snapshot is not None:
            old = torch.as_tensor(from_snapshot, dtype=torch.bool, device=device)
            for values, kept in zip(taken, snapshot.tensors(), strict=True):
                values[old] = kept[take[old]]
        for now, values in zip(self._state(), taken, strict=True):
            now[put] = values

    def adopt(self, other: PackedPopulation, members: Sequence[int]) -> None:
        """Take the state of as many ``members`` of another pack of the same architecture; settings stay."""
        chosen = torch.as_tensor(members, dtype=torch.int64, device=self.parameters.device)
        for now, theirs in zip(self._state(), other._state(), strict=True):
            now.copy_(theirs[chosen])
        self.optimizer.even = other.optimizer.even

    def tensors(self) -> Tensors:
        """Parameters and buffers of all members by the names of their networks, each of shape (K, ...), to be written
        and read in place."""
        return self._views | self._own_buffers()

    def columns(self) -> dict[str, slice]:
        """Where each parameter stands in a row of ``parameters``."""
        bounds = itertools.accumulate((value[0].numel() for value in self._views.values()), initial=0)
        return {name: slice(*pair) for name, pair in zip(self._views, itertools.pairwise(bounds), strict=True)}

    def trained(self) -> torch.Tensor:
        """Which tensors train, shape (K, L), bool."""
        last = int(self._layer_of_leaf.max())
        return self._layer_of_leaf.unsqueeze(0) >= self.frozen_layers.clamp(0, last).unsqueeze(1)

    def state_dict(self, member: int) -> Tensors:
        """A member's parameters and buffers by the names of its network, copies; settings are not among them."""
        return {name: value[member].clone() for name, value in self.tensors().items()}

    # -- inside --------------------------------------------------------------------------------------------------------

    def _differentiated(
        self, inputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None, smoothing: torch.Tensor | None
    ) -> torch.Tensor:
        """Losses by vmap; the gradients go into their buffer. Autograd around vmap does what ``torch.func.vjp`` would,
        with less book-keeping."""
        training_mode(self._skeleton, int(self.frozen_layers.min()))
        leaves = {name: view.detach().requires_grad_() for name, view in self._views.items()}
        with torch.enable_grad():
            outputs, self._buffers = self._forward(leaves, self._current_buffers(), inputs)
        given = outputs.detach()
        if isinstance(self.loss, Objective):
            losses, slope = self.loss.loss_and_slope(self._whole[0], given, targets, weights)
        else:
            wanted = targets if self.loss == "cross_entropy" else feature_major(targets)
            losses, slope = loss_and_slope(self.loss, feature_major(given), wanted, weights, smoothing)
            slope = slope.transpose(1, 2) if given.ndim > 2 else slope.squeeze(1)
        found = torch.autograd.grad(outputs, list(leaves.values()), slope, allow_unused=True, materialize_grads=True)
        torch.cat([part.reshape(self._count, -1) for part in found], dim=1, out=self._gradients)
        return losses

    def _member_forward(
        self, parameters: Tensors, buffers: Tensors, inputs: torch.Tensor
    ) -> tuple[torch.Tensor, Tensors]:
        """Outputs of one member, and what its buffers have become (running statistics are written in place)."""
        buffers = {name: value.clone() for name, value in buffers.items()}
        outputs = functional_call(self._skeleton, (parameters, buffers), (inputs,))
        return outputs, {name: value.detach() for name, value in buffers.items()}

    def _alone(self, parameters: Tensors, buffers: Tensors, inputs: torch.Tensor) -> tuple[torch.Tensor, Tensors]:
        """``_member_forward`` of the only member, without vmap."""
        given, held = ({name: value[0] for name, value in tensors.items()} for tensors in (parameters, buffers))
        outputs, now = self._member_forward(given, held, inputs[0])
        return outputs.unsqueeze(0), {name: value.unsqueeze(0) for name, value in now.items()}

    def _views_of(self, parameters: torch.Tensor) -> Tensors:
        """Parameters (n, P) by the network's names, (n, ...) each."""
        return {
            name: parameters[:, columns].view(-1, *self._views[name].shape[1:])
            for name, columns in self.columns().items()
        }

    def _member_outputs(self, parameters: Tensors, buffers: Tensors, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = functional_call(self._skeleton, (parameters, buffers), (inputs,))
        return outputs

    def _current_buffers(self) -> Tensors:
        return self._buffers | {name: self.dropout[:, site] for site, name in enumerate(self._rates)}

    def _own_buffers(self) -> Tensors:
        """Running statistics and the like; rates are settings."""
        return {name: value for name, value in self._buffers.items() if name.split(".")[-1] != RATE}

    def _state(self) -> list[torch.Tensor]:
        """What is a member's own, in the order of ``Snapshot.tensors``."""
        return [self.parameters, *self.optimizer.buffers(), *self._own_buffers().values()]

    def _together(self, inputs: torch.Tensor) -> Sequence[slice]:
        """Members that go through a step together: all, or even parts."""
        if self._stack is None or not self._stack.takes(inputs.ndim - 2):
            return self._whole
        shape = inputs.shape[1:]
        if shape not in self._chunks:
            each, most = 4 * self.parameters[0].numel() * self.parameters.element_size(), CHUNK_BYTES
            if self._stack.spatial:
                each, most = each + self._stack.room(shape), SPATIAL_BYTES
            parts = math.ceil(self._count / max(1, most // each)) if inputs.device.type == "cpu" else 1
            bounds = [round(self._count * part / parts) for part in range(parts + 1)]
            self._chunks[shape] = [slice(first, last) for first, last in itertools.pairwise(bounds)]
        return self._chunks[shape]

    def _in_force(self, rows: slice) -> _InForce:
        """The settings of some members, ready for use; worked out again when one was written."""
        written = tuple(getattr(self, name)._version for name in SETTINGS)
        if written != self._written:
            self._written = written
            self._ready.clear()
        found = self._ready.get((rows.start, rows.stop))
        if found is None:
            found = self._ready[rows.start, rows.stop] = self._prepared(rows)
        return found

    def _prepared(self, rows: slice) -> _InForce:
        def column(values: torch.Tensor) -> torch.Tensor | None:
            return values[rows].unsqueeze(1) if bool(values[rows].any()) else None

        def rates(values: torch.Tensor) -> torch.Tensor | None:
            return values[rows] if bool(values[rows].any()) else None

        first = float(self.momentum[rows.start])
        training = self.trained()[rows] if bool(self.frozen_layers[rows].any()) else None
        return _InForce(
            settings=Settings(
                learning_rate=self.learning_rate[rows].unsqueeze(1),
                momentum=self.momentum[rows].unsqueeze(1),
                weight_decay=column(self.weight_decay),
                momentum_somewhere=bool(self.momentum[rows].any()),
                momentum_everywhere=bool(self.momentum[rows].all()),
                shared_momentum=first if bool((self.momentum[rows] == first).all()) else None,
                training=training,
            ),
            label_smoothing=rates(self.label_smoothing),
            grad_clip=rates(self.grad_clip),
            dropout=DropoutRates.of(self.dropout[rows]) if bool(self.dropout[rows].any()) else None,
        )

    def _setting(self, value: float) -> torch.Tensor:
        return self.parameters.new_full((self._count,), value)


def _layers_of(network: nn.Module, names: Sequence[str]) -> torch.Tensor:
    """The layer (see ``networks.layers``) that each parameter belongs to, int64."""
    owner: dict[int, int] = {}
    for index, layer in enumerate(layers(network)):
        for parameter in layer.parameters():
            owner[id(parameter)] = index
    found: dict[str, Any] = dict(network.named_parameters())
    return torch.tensor([owner[id(found[name])] for name in names], dtype=torch.int64)
