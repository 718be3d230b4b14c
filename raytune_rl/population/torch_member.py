"""One torch model under training: minibatch steps, measurements, snapshots. The member that ``TorchTask`` builds.

Its speed is the speed of a run with small models, so a step never waits for a number (no ``.item()``): losses and norms
stay tensors until the segment is over.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_, get_total_norm

from raytune_rl.population.candidate import MemberContext, SegmentResult, State
from raytune_rl.population.controls import Controls
from raytune_rl.population.curves import curve_signals
from raytune_rl.population.evaluation import measure, outputs_of, rehearse
from raytune_rl.population.networks import arguments_of, build_network, training_mode
from raytune_rl.population.optimisers import (
    load_optimizer_state,
    make_optimizer,
    optimizer_state,
    to_numpy,
    to_tensor,
)
from raytune_rl.population.places import START_ONLY
from raytune_rl.population.precision import MixedPrecision
from raytune_rl.population.randomness import START, TRAIN, random_stream
from raytune_rl.population.splits import Batches, load_splits
from raytune_rl.records import Value

if TYPE_CHECKING:
    from raytune_rl.population.torch_task import TorchTask

PROBES = 8
"""About so many steps per segment, evenly spaced, have their gradient and their update measured."""


class TorchMember:
    """See ``Member`` for what the methods promise.

    Random numbers are a function of the member's seed and its counters (``randomness.py``). A snapshot of its own
    brings both back, so training goes on as it did, bit for bit on the CPU; a snapshot of another member leaves them,
    so the receiver goes on with batches of its own, and counts its own steps.
    """

    def __init__(self, task: TorchTask, context: MemberContext, hyperparameters: Mapping[str, Value]) -> None:
        self._task = task
        self._context = context
        self._device = torch.device(context.device)
        splits = load_splits(task.data, self._device)
        self._train, self._validation = splits.train, splits.validation
        self._sample = task.sample(self._validation) if task.predictions else None
        self._loss = copy.deepcopy(task.loss).to(self._device) if isinstance(task.loss, nn.Module) else task.loss
        self._precision = MixedPrecision(task.precision, self._device)
        self._places = task.places(hyperparameters)
        self._seed = context.seed
        self._batches = Batches(self._train, seed=self._seed, device=self._device)
        self._steps = 0
        self._metrics: dict[str, float] = {}
        self._controls = self._assemble(hyperparameters)
        with random_stream(self._device, START, self._seed):
            rehearse(
                self._controls.network,
                self._train,
                loss=self._controls.loss,
                device=self._device,
                autocast=self._precision.autocast,
            )

    def apply(self, hyperparameters: Mapping[str, Value]) -> Mapping[str, Value]:
        for name, value in hyperparameters.items():
            if name not in self._places:
                raise ValueError(f"The hyperparameter {name!r} was not among those that the member was built with.")
            self._controls.write(name, value)
        return self._effective()

    def train(self, length: int) -> SegmentResult:
        """Train ``length`` steps and validate.

        Metrics: ``validation_loss``, ``validation_<metric>`` and ``train_loss``, the mean over the segment's batches
        (label smoothing included). Signals: those of ``mdp.state.SIGNALS`` but ``train_seconds``, which no run could
        repeat; ``grad_norm`` is taken before clipping, both norms over what trains. Slope and noise are left out where
        the loss has no logarithm. A diverged member reports NaN.
        """
        controls, network, optimizer = self._controls, self._controls.network, self._controls.optimizer
        training_mode(network, controls.frozen_layers)
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        every = max(1, length // PROBES)
        losses: list[torch.Tensor] = []
        gradients: list[torch.Tensor] = []
        updates: list[torch.Tensor] = []
        with random_stream(self._device, TRAIN, self._seed, self._steps):
            for step in range(length):
                inputs, targets = self._batches.take(controls.batch_size)
                with self._precision.autocast():
                    loss = controls.loss(network(inputs), targets)
                optimizer.zero_grad(set_to_none=True)
                self._precision.backward(loss, optimizer)
                probe = step % every == 0
                if probe:
                    gradients.append(get_total_norm([p.grad for p in parameters if p.grad is not None]))
                    before = [parameter.detach().clone() for parameter in parameters]
                if controls.grad_clip > 0:
                    clip_grad_norm_(parameters, controls.grad_clip)
                self._precision.step(optimizer)
                if probe:
                    updates.append(_relative_change(parameters, before))
                losses.append(loss.detach())
            self._steps += length
            outputs = outputs_of(network, self._validation, device=self._device, autocast=self._precision.autocast)
            validation = measure(
                outputs, self._validation, loss=self._loss, metrics=self._task.metrics, prefix="validation"
            )
        curve = curve_signals(torch.stack(losses).reshape(-1, 1).double().cpu().numpy())
        signals = {
            name: float(value[0]) for name, value in curve.items() if name == "train_loss" or value[0] == value[0]
        }
        signals |= {"grad_norm": _mean(gradients), "update_norm": _mean(updates)}
        self._metrics = validation | {"train_loss": signals["train_loss"]}
        return SegmentResult(
            metrics=dict(self._metrics),
            signals=signals,
            steps=self._steps,
            predictions=self._sample.predictions(outputs[None])[0] if self._sample is not None else None,
        )

    def get_state(self) -> State:
        network = self._controls.network.state_dict()
        return {
            "kind": "torch",
            "member": self._context.member,
            "seed": self._seed,
            "steps": self._steps,
            "examples": self._batches.examples,
            "hyperparameters": self._effective(),
            "metrics": dict(self._metrics),
            "network": {name: to_numpy(value) for name, value in network.items() if isinstance(value, torch.Tensor)},
            "optimizer": optimizer_state(self._controls.optimizer),
            "precision": self._precision.get_state(),
        }

    def set_state(self, state: State) -> None:
        """Weights, optimiser state and hyperparameters of ``state``. A network of another architecture (arguments of
        the factory that count at the start only) is built anew, as those weights fit no other."""
        values: dict[str, Value] = state["hyperparameters"]
        if self._architecture(values) != self._architecture(self._controls.start):
            self._controls = self._assemble(values)
        self._controls.start = self._start_values(values)
        self._controls.network.load_state_dict({name: to_tensor(array) for name, array in state["network"].items()})
        load_optimizer_state(self._controls.optimizer, state["optimizer"])
        self._precision.set_state(state["precision"])
        self.apply(values)
        self._metrics = dict(state["metrics"])
        if state["member"] == self._context.member:
            self._seed, self._steps = state["seed"], state["steps"]
            self._batches = Batches(self._train, seed=self._seed, device=self._device)
            self._batches.examples = state["examples"]

    def close(self) -> None:
        """Nothing is held but memory."""

    def _assemble(self, values: Mapping[str, Value]) -> Controls:
        """Network, optimiser and loss for these values, the network's weights on the member's own seed."""
        task = self._task
        built = build_network(
            task.network,
            values,
            device=self._device,
            seed=self._seed,
            dropout=[name for name, place in self._places.items() if place == "dropout"],
            initialisation=[values[name] for name, place in self._places.items() if place == "initialisation"],
        )
        optimizer = make_optimizer(
            task.optimizer,
            built.network.parameters(),
            learning_rate=task.learning_rate,
            weight_decay=task.weight_decay,
            momentum=task.momentum,
        )
        controls = Controls(
            places=self._places,
            start=self._start_values(values),
            built=built,
            optimizer=optimizer,
            loss=self._loss,
            examples=len(self._train),
            batch_size=task.batch_size,
            grad_clip=task.grad_clip,
        )
        for name, value in values.items():
            controls.write(name, value)
        return controls

    def _effective(self) -> dict[str, Value]:
        return {name: self._controls.read(name) for name in self._places}

    def _start_values(self, values: Mapping[str, Value]) -> dict[str, Value]:
        return {name: values[name] for name, place in self._places.items() if place in START_ONLY}

    def _architecture(self, values: Mapping[str, Value]) -> dict[str, Any]:
        names = {name for name, place in self._places.items() if place == "network"}
        return {name: value for name, value in arguments_of(self._task.network, values).items() if name in names}


def _relative_change(parameters: list[nn.Parameter], before: list[torch.Tensor]) -> torch.Tensor:
    moved = torch._foreach_sub([parameter.detach() for parameter in parameters], before)
    return get_total_norm(moved) / (get_total_norm(before) + 1e-12)


def _mean(values: list[torch.Tensor]) -> float:
    return float(torch.stack(values).mean())
