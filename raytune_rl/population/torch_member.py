"""One torch model under training: minibatch steps, measurements, snapshots. The member that ``TorchTask`` builds.

It sets the speed of runs with small models, so a step never waits for the device (no ``.item()``): losses and norms
stay tensors until the segment is over.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_, get_total_norm

from raytune_rl.population.augmenting import Augmenter
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
from raytune_rl.population.randomness import AUGMENT, START, TRAIN, generator, random_stream
from raytune_rl.population.splits import Batches, load_splits
from raytune_rl.records import Value

if TYPE_CHECKING:
    from raytune_rl.population.torch_task import TorchTask

PROBES = 8
"""The approximate number of steps per segment, evenly spaced, whose gradient and update are measured."""


class TorchMember:
    """Implements ``Member``, which describes the methods.

    Random numbers are a function of the member's seed and its counters (``randomness.py``). A snapshot of the member
    itself restores both, so training continues as it did, bit for bit on the CPU. A snapshot of another member changes
    neither: the receiver continues with its own batches and its own step count.
    """

    def __init__(self, task: TorchTask, context: MemberContext, hyperparameters: Mapping[str, Value]) -> None:
        self.task = task
        self._context = context
        self.device = torch.device(context.device)
        splits = load_splits(task.data, self.device)
        self._train, self._validation = splits.train, splits.validation
        self._sample = task.sample(self._validation) if task.predictions else None
        self._loss = copy.deepcopy(task.loss).to(self.device) if isinstance(task.loss, nn.Module) else task.loss
        self._precision = MixedPrecision(task.precision, self.device)
        self._places = task.places(hyperparameters)
        self.seed = context.seed
        self.batches = self.stream()
        self.steps = 0
        self._metrics: dict[str, float] = {}
        self.controls = self._assemble(hyperparameters)
        with random_stream(self.device, START, self.seed):
            rehearse(
                self.controls.network,
                self._train,
                loss=self.controls.loss,
                device=self.device,
                autocast=self._precision.autocast,
            )

    def apply(self, hyperparameters: Mapping[str, Value]) -> Mapping[str, Value]:
        for name, value in hyperparameters.items():
            if name not in self._places:
                raise ValueError(f"The hyperparameter {name!r} was not among those that the member was built with.")
            self.controls.write(name, value)
        return self._effective()

    def train(self, length: int) -> SegmentResult:
        """Train ``length`` steps and validate.

        Metrics: ``validation_loss``, ``validation_<metric>`` and ``train_loss``, the mean over the segment's batches
        (label smoothing included). A diverged member reports NaN.

        Signals: those of ``mdp.state.SIGNALS`` except ``train_seconds``, which would differ from run to run. Both norms
        are over the parameters that train, ``grad_norm`` before clipping. Slope and noise are left out if some loss has
        no logarithm.
        """
        controls, network, optimizer = self.controls, self.controls.network, self.controls.optimizer
        training_mode(network, controls.frozen_layers)
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        every = max(1, length // PROBES)
        augmenter = self.augmenter()
        losses: list[torch.Tensor] = []
        gradients: list[torch.Tensor] = []
        updates: list[torch.Tensor] = []
        with random_stream(self.device, TRAIN, self.seed, self.steps):
            for step in range(length):
                inputs, targets = self.batches.take(controls.batch_size)
                if augmenter is not None:
                    inputs = augmenter(inputs)
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
            return self.conclude(torch.stack(losses), torch.stack(gradients), torch.stack(updates))

    def stream(self) -> Batches:
        """The member's batches from the first one on."""
        return Batches(self._train, seed=self.seed, device=self.device)

    def augmenter(self) -> Augmenter | None:
        """What changes the batches of the segment that begins now; ``None`` if they are not augmented."""
        strength = self.controls.augmentation
        if self.task.augment is None or not strength > 0:
            return None
        return Augmenter(self.task.augment, strength, generator(self.device, AUGMENT, self.seed, self.steps))

    def conclude(self, losses: torch.Tensor, gradients: torch.Tensor, updates: torch.Tensor) -> SegmentResult:
        """Validate at the end of a segment, and return its result.

        Args:
            losses: of the steps, shape (length,).
            gradients: norms of the gradients that were measured, shape (probes,).
            updates: norms of the relative updates that were measured, shape (probes,).
        """
        self.steps += len(losses)
        outputs = outputs_of(
            self.controls.network, self._validation, device=self.device, autocast=self._precision.autocast
        )
        validation = measure(outputs, self._validation, loss=self._loss, metrics=self.task.metrics, prefix="validation")
        curve = curve_signals(losses.reshape(-1, 1).double().cpu().numpy())
        signals = {
            name: float(value[0]) for name, value in curve.items() if name == "train_loss" or value[0] == value[0]
        }
        signals |= {"grad_norm": float(gradients.mean()), "update_norm": float(updates.mean())}
        self._metrics = validation | {"train_loss": signals["train_loss"]}
        return SegmentResult(
            metrics=dict(self._metrics),
            signals=signals,
            steps=len(losses),
            predictions=self._sample.predictions(outputs[None])[0] if self._sample is not None else None,
        )

    def get_state(self) -> State:
        network = self.controls.network.state_dict()
        return {
            "kind": "torch",
            "member": self._context.member,
            "seed": self.seed,
            "steps": self.steps,
            "examples": self.batches.examples,
            "hyperparameters": self._effective(),
            "metrics": dict(self._metrics),
            "network": {name: to_numpy(value) for name, value in network.items() if isinstance(value, torch.Tensor)},
            "optimizer": optimizer_state(self.controls.optimizer),
            "precision": self._precision.get_state(),
        }

    def set_state(self, state: State) -> None:
        """Take over weights, optimiser state and hyperparameters of ``state``. If its network was built with other
        arguments, the network is built again, as its weights would not fit this one."""
        values: dict[str, Value] = state["hyperparameters"]
        if self._architecture(values) != self._architecture(self.controls.start):
            self.controls = self._assemble(values)
        self.controls.start = self._start_values(values)
        self.controls.network.load_state_dict({name: to_tensor(array) for name, array in state["network"].items()})
        load_optimizer_state(self.controls.optimizer, state["optimizer"])
        self._precision.set_state(state["precision"])
        self.apply(values)
        self._metrics = dict(state["metrics"])
        if state["member"] == self._context.member:
            self.seed, self.steps = state["seed"], state["steps"]
            self.batches = self.stream()
            self.batches.examples = state["examples"]

    def close(self) -> None:
        """Nothing to release but memory."""

    def _assemble(self, values: Mapping[str, Value]) -> Controls:
        """Network, optimiser and loss for these values; the member's seed determines the initial weights."""
        task = self.task
        built = build_network(
            task.network,
            values,
            device=self.device,
            seed=self.seed,
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
            examples=len(self.batches),
            batch_size=task.batch_size,
            grad_clip=task.grad_clip,
            augmentation=task.augmentation,
        )
        for name, value in values.items():
            controls.write(name, value)
        return controls

    def _effective(self) -> dict[str, Value]:
        return {name: self.controls.read(name) for name in self._places}

    def _start_values(self, values: Mapping[str, Value]) -> dict[str, Value]:
        return {name: values[name] for name, place in self._places.items() if place in START_ONLY}

    @property
    def architecture(self) -> dict[str, Any]:
        """The hyperparameters that the network was built with as arguments, and that cannot change afterwards."""
        return self._architecture(self.controls.start)

    def _architecture(self, values: Mapping[str, Value]) -> dict[str, Any]:
        names = {name for name, place in self._places.items() if place == "network"}
        return {name: value for name, value in arguments_of(self.task.network, values).items() if name in names}


def _relative_change(parameters: list[nn.Parameter], before: list[torch.Tensor]) -> torch.Tensor:
    moved = torch._foreach_sub([parameter.detach() for parameter in parameters], before)
    return get_total_norm(moved) / (get_total_norm(before) + 1e-12)
