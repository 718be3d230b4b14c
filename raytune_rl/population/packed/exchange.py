"""State of torch members into a packed population and back, between two segments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from raytune_rl.population.packed.losses import Objective
from raytune_rl.population.packed.population import PackedPopulation
from raytune_rl.population.torch_member import TorchMember


@torch.no_grad()
def gather(members: Sequence[TorchMember], population: PackedPopulation) -> None:
    """Weights, buffers, optimiser state and settings of each member into its row."""
    if isinstance(population.loss, Objective):
        population.loss.holders = [member.controls for member in members]
    for row, member in enumerate(members):
        controls = member.controls
        network, group = controls.network, controls.optimizer.param_groups[0]
        tensors: dict[str, torch.Tensor] = dict(network.named_parameters()) | dict(network.named_buffers())
        for name, value in population.tensors().items():
            value[row].copy_(tensors[name])
        optimizer = population.optimizer
        for buffer in optimizer.buffers():
            buffer[row].zero_()
        for leaf, (name, columns) in enumerate(population.columns().items()):
            state: dict[str, Any] = controls.optimizer.state.get(tensors[name], {})
            if state.get("momentum_buffer") is not None:
                optimizer.first[row, columns] = state["momentum_buffer"].flatten()
            elif "exp_avg" in state and optimizer.second is not None:
                optimizer.first[row, columns] = state["exp_avg"].flatten()
                optimizer.second[row, columns] = state["exp_avg_sq"].flatten()
                optimizer.steps[row, leaf] = float(state["step"])
        population.learning_rate[row] = float(group["lr"])
        population.weight_decay[row] = float(group["weight_decay"])
        population.momentum[row] = float(group["betas"][0] if "betas" in group else group["momentum"])
        population.grad_clip[row] = controls.grad_clip
        population.frozen_layers[row] = controls.frozen_layers
        population.label_smoothing[row] = float(getattr(controls.loss, "label_smoothing", 0.0))
        rates = [module.p for module in network.modules() if type(module) is nn.Dropout]
        population.dropout[row] = torch.tensor(rates, dtype=population.dropout.dtype)
    population.optimizer.recount()


@torch.no_grad()
def scatter(population: PackedPopulation, members: Sequence[TorchMember]) -> None:
    """The inverse of ``gather``, but for the settings, which training does not change."""
    optimizer = population.optimizer
    trained = population.trained()
    for row, member in enumerate(members):
        controls = member.controls
        network = controls.network
        tensors: dict[str, torch.Tensor] = dict(network.named_parameters()) | dict(network.named_buffers())
        for name, value in population.tensors().items():
            tensors[name].copy_(value[row])
        momentum = float(population.momentum[row]) != 0
        for leaf, (name, columns) in enumerate(population.columns().items()):
            parameter = tensors[name]
            if not trained[row, leaf]:
                continue
            if optimizer.second is not None:
                state: dict[str, Any] = {
                    "step": optimizer.steps[row, leaf].to(torch.float32).clone(),
                    "exp_avg": optimizer.first[row, columns].view_as(parameter).clone(),
                    "exp_avg_sq": optimizer.second[row, columns].view_as(parameter).clone(),
                }
            elif momentum:
                state = {"momentum_buffer": optimizer.first[row, columns].view_as(parameter).clone()}
            else:
                continue
            controls.optimizer.state[parameter] = state
