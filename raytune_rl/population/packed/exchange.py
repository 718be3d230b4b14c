"""Copies the state of torch members into a packed population and back, before and after a segment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from raytune_rl.population.packed.layers import has_own_rate
from raytune_rl.population.packed.losses import MemberLosses
from raytune_rl.population.packed.population import PackedPopulation
from raytune_rl.population.torch_member import TorchMember


@torch.no_grad()
def gather(members: Sequence[TorchMember], population: PackedPopulation) -> None:
    """Write weights, buffers, optimiser state and settings of each member into its row."""
    if isinstance(population.loss, MemberLosses):
        population.loss.holders = [member.controls for member in members]
    optimizer = population.optimizer
    for row, member in enumerate(members):
        tensors = _tensors(member)
        for name, value in population.tensors().items():
            value[row].copy_(tensors[name])
        for buffer in optimizer.buffers():
            buffer[row].zero_()
        for index, (name, columns) in enumerate(population.parameter_columns.items()):
            state: dict[str, Any] = member.controls.optimizer.state.get(tensors[name], {})
            if state.get("momentum_buffer") is not None:
                optimizer.first[row, columns] = state["momentum_buffer"].flatten()
            elif "exp_avg" in state and optimizer.second is not None:
                optimizer.first[row, columns] = state["exp_avg"].flatten()
                optimizer.second[row, columns] = state["exp_avg_sq"].flatten()
                optimizer.steps[row, index] = float(state["step"])
        _gather_settings(member, population, row)
    optimizer.recount()


@torch.no_grad()
def scatter(population: PackedPopulation, members: Sequence[TorchMember]) -> None:
    """The inverse of ``gather``, without the settings, which training does not change."""
    optimizer = population.optimizer
    trained = population.trained()
    for row, member in enumerate(members):
        tensors = _tensors(member)
        for name, value in population.tensors().items():
            tensors[name].copy_(value[row])
        has_momentum = float(population.settings.momentum[row]) != 0
        for index, (name, columns) in enumerate(population.parameter_columns.items()):
            parameter = tensors[name]
            if not trained[row, index]:
                continue
            if optimizer.second is not None:
                state: dict[str, Any] = {
                    "step": optimizer.steps[row, index].to(torch.float32).clone(),
                    "exp_avg": optimizer.first[row, columns].view_as(parameter).clone(),
                    "exp_avg_sq": optimizer.second[row, columns].view_as(parameter).clone(),
                }
            elif has_momentum:
                state = {"momentum_buffer": optimizer.first[row, columns].view_as(parameter).clone()}
            else:
                continue
            member.controls.optimizer.state[parameter] = state


def _tensors(member: TorchMember) -> dict[str, torch.Tensor]:
    """The parameters and buffers of a member's network, not copies."""
    network = member.controls.network
    return dict(network.named_parameters()) | dict(network.named_buffers())


def _gather_settings(member: TorchMember, population: PackedPopulation, row: int) -> None:
    controls, settings = member.controls, population.settings
    group = controls.optimizer.param_groups[0]
    settings.learning_rate[row] = float(group["lr"])
    settings.weight_decay[row] = float(group["weight_decay"])
    settings.momentum[row] = float(group["betas"][0] if "betas" in group else group["momentum"])
    settings.grad_clip[row] = controls.grad_clip
    settings.frozen_layers[row] = controls.frozen_layers
    settings.label_smoothing[row] = float(getattr(controls.loss, "label_smoothing", 0.0))
    rates = [module.p for module in controls.network.modules() if has_own_rate(module)]
    settings.dropout[row] = torch.tensor(rates, dtype=settings.dropout.dtype)
