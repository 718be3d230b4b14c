"""Hand-written forward and backward passes for K networks that are stacks of known layers.

``vmap`` serves any network, but for small ones most of its time is book-keeping. A ``Sequential`` of linear layers,
convolutions, max pooling, activations and dropout needs only one batched matrix product per layer in the forward pass
and two in the backward pass, without an autograd graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from raytune_rl.population.packed.activations import Activation
from raytune_rl.population.packed.binding import BoundLayer, DropoutRates, LayerContext, Workspace
from raytune_rl.population.packed.dense import Dropout
from raytune_rl.population.packed.losses import LossName, MemberLosses, loss_and_grad
from raytune_rl.population.packed.sequential import structure

CACHED_PROGRAMS = 64
"""Combinations of members and batch shapes for which the bound layers are kept."""

OUTPUTS_PER_BLOCK, MIN_EXAMPLES_PER_BLOCK = 4096, 32
"""Size of the blocks in which outputs of spatial networks are computed: models times examples, and examples at least.
The im2col columns of a block should stay in the cache."""


@dataclass(frozen=True, slots=True)
class _Program:
    """The layers bound to some members and one batch shape. The backward pass ends at ``first_with_parameters``."""

    layers: Sequence[BoundLayer]
    first_with_parameters: int


class Stack:
    """Losses and gradients of K networks that are stacks of known layers.

    Args:
        network: one of them, for its structure; see ``fits``.
        parameters, gradients: views of shape (K, ...) by the network's names; gradients are written.
    """

    def __init__(
        self, network: nn.Module, parameters: Mapping[str, torch.Tensor], gradients: Mapping[str, torch.Tensor]
    ) -> None:
        known = structure(network)
        assert known is not None
        self._layers, self._example_dims, self.spatial = known.layers, known.example_dims, known.spatial
        self._parameters, self._gradients = parameters, gradients
        self._workspace = Workspace(next(iter(parameters.values())))
        self._programs: dict[tuple[int, int, torch.Size, bool], _Program] = {}

    @staticmethod
    def fits(network: nn.Module, device: torch.device) -> bool:
        """Whether ``network`` consists of known layers only, none of them with shared parameters. Spatial ones fit on
        the CPU only: elsewhere nobody has measured whether they are faster than vmap."""
        known = structure(network)
        return known is not None and (device.type == "cpu" or not known.spatial)

    def accepts(self, example_dims: int) -> bool:
        """Whether the network takes examples of so many dimensions."""
        return self._example_dims is None or example_dims == self._example_dims

    def workspace_bytes(self, shape: torch.Size) -> int:
        """Bytes of the buffers for one member's step on a batch of inputs (B, ...)."""
        workspace = Workspace(next(iter(self._parameters.values())))
        self._program(slice(0, 1), torch.Size([1, *shape[1:], shape[0]]), True, workspace)
        return workspace.bytes()

    @torch.no_grad()
    def outputs(self, inputs: torch.Tensor, parameters: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Outputs, in eval mode, of models with these ``parameters``, by name (n, ...), for the same ``inputs``
        (N, ...): shape (n, N, outputs)."""
        if not self.spatial:
            return self._outputs(inputs, parameters)
        models = len(next(iter(parameters.values())))
        size = max(MIN_EXAMPLES_PER_BLOCK, OUTPUTS_PER_BLOCK // models)
        blocks = [inputs[first : first + size] for first in range(0, max(1, len(inputs)), size)]
        return torch.cat([self._outputs(block, parameters) for block in blocks], dim=1)

    def _outputs(self, inputs: torch.Tensor, parameters: Mapping[str, torch.Tensor]) -> torch.Tensor:
        hidden = inputs.movedim(0, -1).unsqueeze(0)
        for layer in self._layers:
            hidden = layer.outputs(hidden, parameters)
        return hidden.transpose(1, 2)

    @torch.no_grad()
    def loss_and_gradients(
        self,
        loss: LossName | MemberLosses,
        rows: slice,
        inputs: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor | None,
        smoothing: torch.Tensor | None,
        dropout: DropoutRates | None,
    ) -> torch.Tensor:
        """The losses of the members ``rows``, shape (k,); their gradients are written to the constructor's views.

        The tensors are of these members only; see ``PackedPopulation.step`` for their shapes. ``weights``,
        ``smoothing`` and ``dropout``: ``None`` = equal ones, none, none.
        """
        if inputs.dtype != self._workspace.dtype:  # a convolution's copy into its buffers would silently convert them
            raise TypeError(f"a packed network of {self._workspace.dtype} was given inputs of {inputs.dtype}")
        hidden = inputs.movedim(1, -1)
        key = (rows.start, rows.stop, hidden.shape, dropout is not None)
        program = self._programs.get(key)
        if program is None:
            if len(self._programs) >= CACHED_PROGRAMS:
                self._programs.clear()
            program = self._programs[key] = self._program(rows, hidden.shape, dropout is not None, self._workspace)
        saved: list[torch.Tensor | None] = []
        for layer in program.layers:
            hidden, saved_by_layer = layer.forward(hidden, dropout)
            saved.append(saved_by_layer)
        if isinstance(loss, MemberLosses):
            losses, grad = loss.loss_and_grad(rows, hidden.transpose(1, 2), targets, weights)
            grad = grad.transpose(1, 2).contiguous()
        else:
            feature_major_targets = targets if loss == "cross_entropy" else targets.transpose(1, 2)
            losses, grad = loss_and_grad(loss, hidden, feature_major_targets, weights, smoothing)
        for index in range(len(saved) - 1, program.first_with_parameters - 1, -1):
            grad = program.layers[index].backward(grad, saved[index])
        return losses

    def _program(self, rows: slice, shape: torch.Size, dropout: bool, workspace: Workspace) -> _Program:
        """The layers bound to the members ``rows`` and inputs of ``shape`` (k, features..., B); without ``dropout``,
        dropout layers are left out."""
        layers = [(i, layer) for i, layer in enumerate(self._layers) if dropout or not isinstance(layer, Dropout)]
        first = next(position for position, (_, layer) in enumerate(layers) if layer.has_parameters)
        bound_layers: list[BoundLayer] = []
        grad_slot = 0
        saved_by: Activation | None = None
        reusable: torch.Tensor | None = None
        for index, layer in layers:
            context = LayerContext(
                index=index,
                grad_slot=grad_slot,
                shape=shape,
                rows=rows,
                needs_input_grad=len(bound_layers) > first,
                input_saved_by=saved_by,
                reusable_input=reusable,
                parameters=self._parameters,
                gradients=self._gradients,
                workspace=workspace,
            )
            bound_layers.append(bound := layer.bind(context))
            shape, saved_by, reusable = bound.shape, bound.output_saved_by, bound.reusable_output
            grad_slot = 1 - grad_slot if layer.spatial else grad_slot
        return _Program(bound_layers, first)
