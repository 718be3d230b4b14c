"""Members as numpy arrays, in the format of ``TorchMember.get_state``, into the stacked tensors and out of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from raytune_rl.population.candidate import State
from raytune_rl.population.optimisers import to_numpy, to_tensor
from raytune_rl.population.packed.layout import Layout
from raytune_rl.population.packed.updates import SGD, Adam, Update
from raytune_rl.records import Value

if TYPE_CHECKING:
    from raytune_rl.population.packed.population import PackedPopulation

_INTEGERS = ("batch_size", "frozen_layers")


def stack_parameters(
    networks: Sequence[nn.Module], layout: Layout, members: int, device: torch.device
) -> torch.Tensor:
    """(K, P) from one network for each member, or one for all."""
    first = next(networks[0].parameters())
    flat = torch.zeros(members, layout.width, dtype=first.dtype, device=device)
    views = layout.views(flat)
    with torch.no_grad():
        for name, view in views.items():
            if len(networks) == 1:
                view.copy_(networks[0].get_parameter(name))
            else:
                view.copy_(torch.stack([network.get_parameter(name).to(device) for network in networks]))
    return flat


def stack_buffers(networks: Sequence[nn.Module], members: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Each buffer of all members, shape (K, ...)."""
    found: dict[str, torch.Tensor] = {}
    for name, buffer in networks[0].named_buffers():
        if len(networks) == 1:
            found[name] = buffer.detach().to(device).expand(members, *buffer.shape).clone()
        else:
            found[name] = torch.stack([network.get_buffer(name).detach().to(device) for network in networks])
    return found


def default_names(population: PackedPopulation) -> dict[str, str]:
    """The hyperparameters that a population has, each by its own name."""
    names = ["learning_rate", "weight_decay", "momentum", "batch_size", "grad_clip", "frozen_layers"]
    if population.engine.sites:
        names.append("dropout")
    if isinstance(population.loss, nn.CrossEntropyLoss):
        names.append("label_smoothing")
    return {name: name for name in names}


def get_state(
    population: PackedPopulation, member: int, names: Mapping[str, str], constants: Mapping[str, Value]
) -> State:
    values: dict[str, Value] = dict(constants)
    for name, place in names.items():
        value = float(population.settings.read(place)[member])
        values[name] = round(value) if place in _INTEGERS else value
    return {
        "kind": "torch",
        "member": member,
        "seed": int(population.batches.seeds[member]),
        "steps": int(population.steps[member]),
        "examples": int(population.batches.examples[member]),
        "hyperparameters": values,
        "metrics": {},
        "network": {name: to_numpy(tensor) for name, tensor in network_tensors(population, member).items()},
        "optimizer": optimizer_state(population.update, population.layout, member),
        "precision": {},
    }


def set_state(
    population: PackedPopulation, member: int, state: State, names: Mapping[str, str], *, own: bool
) -> None:
    arrays: Mapping[str, np.ndarray[Any, Any]] = state["network"]
    for name, tensor in network_tensors(population, member).items():
        tensor.copy_(to_tensor(arrays[name]))
    load_optimizer_state(population.update, population.layout, member, state["optimizer"])
    for name, value in state["hyperparameters"].items():
        if name in names:
            population.settings.write(names[name], float(value), [member])
    if own:
        population.steps[member] = state["steps"]
        population.batches.seeds[member] = state["seed"]
        population.batches.examples[member] = state["examples"]


def network_tensors(population: PackedPopulation, member: int) -> dict[str, torch.Tensor]:
    """Parameters and buffers of one member by their names in ``state_dict``, sharing memory with the population."""
    layout = population.layout
    found = layout.one(population.parameters[member])
    found |= {name: buffer[member] for name, buffer in population.buffers.items()}
    found |= {alias: found[name] for alias, name in layout.aliases.items()}
    return {name: found[name] for name in population.template.state_dict() if name in found}


def optimizer_state(update: Update, layout: Layout, member: int) -> dict[int, dict[str, Any]]:
    """As ``optimisers.optimizer_state`` gives it for ``torch``'s optimiser of this member."""
    state: dict[int, dict[str, Any]] = {}
    for index, leaf in enumerate(layout.leaves):
        columns = slice(leaf.first, leaf.first + leaf.size)

        def array(table: torch.Tensor, columns: slice = columns, shape: torch.Size = leaf.shape) -> Any:
            return to_numpy(table[member, columns].view(shape))

        if isinstance(update, SGD) and bool(update.started[member, index]):
            state[index] = {"momentum_buffer": array(update.momentum)}
        elif isinstance(update, Adam) and update.count[member, index] > 0:
            state[index] = {
                "step": np.array(float(update.count[member, index]), dtype=np.float32),
                "exp_avg": array(update.first),
                "exp_avg_sq": array(update.second),
            }
    return state


def load_optimizer_state(
    update: Update, layout: Layout, member: int, state: Mapping[int, Mapping[str, Any]]
) -> None:
    """The inverse; what the state does not mention begins anew."""
    for table in update.state.values():
        table[member] = 0
    for index, slots in state.items():
        leaf = layout.leaves[int(index)]
        columns = slice(leaf.first, leaf.first + leaf.size)
        if isinstance(update, SGD) and slots.get("momentum_buffer") is not None:
            update.momentum[member, columns] = to_tensor(slots["momentum_buffer"]).flatten().to(update.momentum)
            update.started[member, index] = True
        elif isinstance(update, Adam):
            update.first[member, columns] = to_tensor(slots["exp_avg"]).flatten().to(update.first)
            update.second[member, columns] = to_tensor(slots["exp_avg_sq"]).flatten().to(update.second)
            update.count[member, index] = float(slots["step"])
