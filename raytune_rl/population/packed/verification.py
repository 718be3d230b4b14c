"""Whether a pack computes what its members would compute alone, tried on one batch before it is trusted.

``vmap`` and the packed layers serve any network in principle, and in practice there are idioms that they cannot know
of: statistics over a batch that has padding in it, plain attributes that differ between members, operators whose
batching rule is wrong. Most of these raise no error, they train another network. So a few members' losses, gradients
and buffers are compared with plain autograd, once for each new packed population.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from raytune_rl.population.controls import Controls
from raytune_rl.population.networks import Handle, training_mode
from raytune_rl.population.packed.batching import batching_rules_only
from raytune_rl.population.packed.population import PackedPopulation
from raytune_rl.population.packed.segment import Batch
from raytune_rl.population.randomness import seeded

MOST_COMPARED = 4
"""Members that are compared, at most."""

RELATIVE, OF_ALL = 1e-2, 1e-3
"""A tensor may differ by this share of its own norm, and by this share of the norm of all of its kind: rounding differs
between one large product and many small ones."""


@dataclass(frozen=True, slots=True)
class _Computed:
    """What one forward and backward pass gives: gradients by name (of parameters that the loss depends on), buffers by
    name, and the loss."""

    loss: torch.Tensor
    gradients: Mapping[str, torch.Tensor]
    buffers: Mapping[str, torch.Tensor]


def disagreement(population: PackedPopulation, controls: Sequence[Controls], batch: Batch) -> str | None:
    """What a packed population computes otherwise than its members would alone, in words; ``None`` where they agree, or
    where the network is random beyond dropout, so that it agrees with nothing.

    Dropout is left out on both sides. Leaves gradients and buffers of the population changed.

    Args:
        population: holds the members' weights.
        controls: of the K members, at least two.
        batch: of all members.
    """
    sizes = [len(batch[1][0])] * len(controls) if batch[2] is None else (batch[2] > 0).sum(dim=1).tolist()
    rows = _compared(sizes)
    alone = [_alone(controls[row], *(tensor[row, : sizes[row]] for tensor in batch[:2])) for row in rows]
    if any(result is None for result in alone):
        return None
    with _without_dropout(population, controls[0]), batching_rules_only():
        losses = population.compute_gradients(*batch)
    reached = population.trained()
    for row, expected in zip(rows, alone, strict=True):
        assert expected is not None
        names = [name for index, name in enumerate(population.parameter_columns) if reached[row, index]]
        if set(names) != set(expected.gradients):
            return "a packed step reaches other parameters than a plain one"
        gradients = {name: population.gradient(name)[row] for name in names}
        buffers = {name: population.tensors()[name][row] for name in expected.buffers}
        if not _close({"": losses[row]}, {"": expected.loss}):
            return "its packed loss is another one than its plain loss"
        if not _close(gradients, expected.gradients):
            return "its packed gradients are other ones than its plain gradients"
        if not _close(buffers, expected.buffers):
            return "its packed buffers are other ones than its plain buffers"
    return None


def _compared(sizes: Sequence[int]) -> list[int]:
    """The rows to compare: of the smallest and the largest batch, and some more. The first one, from which the packed
    network is made, would agree with more than others do."""
    others = sorted(range(1, len(sizes)), key=lambda row: sizes[row])
    return list(dict.fromkeys([others[0], others[-1], *others]))[:MOST_COMPARED]


def _alone(controls: Controls, inputs: torch.Tensor, targets: torch.Tensor) -> _Computed | None:
    """One pass by plain autograd on a copy of the member's network; ``None`` if two passes do not give the same.

    Raises:
        ValueError: the network changes an attribute of its own whenever it is called, which no pack would notice.
    """
    network = copy.deepcopy(controls.network)
    training_mode(network, controls.frozen_layers)
    for module, attribute in _rates(network, controls):
        setattr(module, attribute, 0.0)
    plain = _plain_attributes(network)
    start = {name: value.clone() for name, value in network.state_dict().items()}
    results: list[_Computed] = []
    for seed in range(2):
        network.load_state_dict(start)
        with seeded(inputs.device, seed):
            results.append(_pass(network, controls, inputs, targets))
    changed = [name for name, value in _plain_attributes(network).items() if plain.get(name) != value]
    if changed:
        raise ValueError(f"its forward pass changes the attribute {changed[0]!r}")
    first, second = results
    return first if torch.equal(first.loss, second.loss) else None


@contextmanager
def _without_dropout(population: PackedPopulation, controls: Controls) -> Iterator[None]:
    """All rates are zero inside, and what they were afterwards."""
    rates = _rates(population.network, controls)
    before, of_members = [getattr(*rate) for rate in rates], population.settings.dropout.clone()
    population.settings.dropout.zero_()
    for module, attribute in rates:
        setattr(module, attribute, 0.0)
    try:
        yield
    finally:
        population.settings.dropout.copy_(of_members)
        for (module, attribute), rate in zip(rates, before, strict=True):
            setattr(module, attribute, rate)


def _rates(network: nn.Module, controls: Controls) -> list[Handle]:
    """The attributes of a copy of the member's network, packed or not, that are dropout rates and numbers."""
    modules = list(network.modules())
    number = {id(module): index for index, module in enumerate(controls.network.modules())}
    followed = {(number[id(module)], name) for handles in controls.dropout.values() for module, name in handles}
    rates = [(modules[index], name) for index, name in sorted(followed)]
    for module in modules:
        if isinstance(module, nn.modules.dropout._DropoutNd):
            rates.append((module, "p"))
        elif isinstance(module, nn.MultiheadAttention | nn.RNNBase):
            rates.append((module, "dropout"))
    return [rate for rate in rates if isinstance(getattr(*rate), float | int)]


def _pass(network: nn.Module, controls: Controls, inputs: torch.Tensor, targets: torch.Tensor) -> _Computed:
    parameters = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    loss = controls.loss(network(inputs.clone()), targets)
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return _Computed(
        loss=loss.detach(),
        gradients={name: value for name, value in zip(parameters, gradients, strict=True) if value is not None},
        buffers={name: value.detach().clone() for name, value in network.named_buffers()},
    )


def _plain_attributes(network: nn.Module) -> dict[str, object]:
    """Numbers, strings and truth values that its modules hold, by path."""
    return {
        f"{path}.{name}".lstrip("."): value
        for path, module in network.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, bool | int | float | str) and name != "training"
    }


def _close(values: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> bool:
    """Whether tensors agree to within rounding; where plain training gives no finite numbers, anything does."""
    if not all(bool(value.isfinite().all()) for value in expected.values()):
        return True
    scale = sum((float(value.double().square().sum()) for value in expected.values()), 0.0) ** 0.5
    for name, value in expected.items():
        difference = float((values[name].double() - value.double()).norm())
        if not difference <= RELATIVE * float(value.double().norm()) + OF_ALL * scale + 1e-7:
            return False
    return True
