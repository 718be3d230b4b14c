"""One torch model under training: minibatch steps, measurements, snapshots. The member that ``TorchTask`` builds.

Its speed is the speed of a run with small models, so a step never waits for a number (no ``.item()``): losses and norms
stay tensors until the segment is over.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_, get_total_norm

from raytune_rl.population.candidate import MemberContext, SegmentResult, State
from raytune_rl.population.controls import Controls
from raytune_rl.population.evaluation import evaluate, rehearse
from raytune_rl.population.networks import arguments_of, build_network, training_mode
from raytune_rl.population.optimisers import (
    load_optimizer_state,
    make_optimizer,
    optimizer_state,
    to_numpy,
    to_tensor,
)
from raytune_rl.population.places import START_ONLY
from raytune_rl.population.randomness import TRAIN, random_stream
from raytune_rl.population.splits import Batches, load_splits
from raytune_rl.records import Value

if TYPE_CHECKING:
    from raytune_rl.population.torch_task import TorchTask

GRADIENT_PROBES = 8
"""Steps per segment whose gradient norm is measured (each one where gradients are clipped: there it comes for free)."""


class TorchMember:
    """See ``Member`` for what the methods promise.

    Random numbers are a function of the member's seed and its counters (``randomness.py``). A snapshot of its own takes
    the counters back, so training repeats bit for bit on the CPU; a snapshot of another member leaves them, so the
    receiver goes on with batches of its own, and counts its own steps.
    """

    def __init__(self, task: TorchTask, context: MemberContext, hyperparameters: Mapping[str, Value]) -> None:
        self._task = task
        self._context = context
        self._device = torch.device(context.device)
        splits = load_splits(task.data, self._device)
        self._train, self._validation = splits.train, splits.validation
        self._loss = copy.deepcopy(task.loss).to(self._device) if isinstance(task.loss, nn.Module) else task.loss
        self._places = task.places(hyperparameters)
        self._batches = Batches(self._train, seed=context.seed, device=self._device)
        self._steps = 0
        self._metrics: dict[str, float] = {}
        self._controls = self._assemble(hyperparameters)
        with random_stream(self._device, context.seed):
            rehearse(self._controls.network, self._train, loss=self._controls.loss, device=self._device)

    def apply(self, hyperparameters: Mapping[str, Value]) -> Mapping[str, Value]:
        for name, value in hyperparameters.items():
            if name not in self._places:
                raise ValueError(f"The hyperparameter {name!r} was not among those that the member was built with.")
            self._controls.write(name, value)
        return self._effective()

    def train(self, length: int) -> SegmentResult:
        """Train ``length`` steps and validate.

        Metrics: ``validation_loss``, ``validation_<metric>`` and ``train_loss``, the mean over the segment's batches
        (label smoothing included). Signals: ``train_loss``; ``loss_slope``, the change of the loss over the segment by
        a straight line through it, and ``loss_noise``, the deviation from that line (RMS), both relative to the mean
        absolute loss; ``grad_norm``, the mean gradient norm before clipping; ``update_norm``, the distance that the
        trainable weights moved in the segment, relative to their norm before it. A diverged member reports NaN.
        """
        controls, network, optimizer = self._controls, self._controls.network, self._controls.optimizer
        training_mode(network, controls.frozen_layers)
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        before = [parameter.detach().clone() for parameter in parameters]
        every = max(1, length // GRADIENT_PROBES)
        losses: list[torch.Tensor] = []
        norms: list[torch.Tensor] = []
        with random_stream(self._device, TRAIN, self._context.seed, self._steps):
            for step in range(length):
                inputs, targets = self._batches.take(controls.batch_size)
                loss = controls.loss(network(inputs), targets)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                if controls.grad_clip > 0:
                    norms.append(clip_grad_norm_(parameters, controls.grad_clip))
                elif step % every == 0:
                    norms.append(get_total_norm([p.grad for p in parameters if p.grad is not None]))
                optimizer.step()
                losses.append(loss.detach())
            self._steps += length
            validation = evaluate(
                network,
                self._validation,
                loss=self._loss,
                metrics=self._task.metrics,
                prefix="validation",
                device=self._device,
            )
        curve = torch.stack(losses).flatten().double().cpu().numpy() if losses else np.full(1, np.nan)
        signals = _curve_signals(curve) | {
            "grad_norm": float(torch.stack(norms).mean()) if norms else float("nan"),
            "update_norm": _relative_change(before, parameters),
        }
        self._metrics = validation | {"train_loss": signals["train_loss"]}
        return SegmentResult(metrics=dict(self._metrics), signals=signals, steps=self._steps)

    def get_state(self) -> State:
        network = self._controls.network.state_dict()
        return {
            "kind": "torch",
            "member": self._context.member,
            "steps": self._steps,
            "examples": self._batches.examples,
            "hyperparameters": self._effective(),
            "metrics": dict(self._metrics),
            "network": {name: to_numpy(value) for name, value in network.items() if isinstance(value, torch.Tensor)},
            "optimizer": optimizer_state(self._controls.optimizer),
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
        self.apply(values)
        self._metrics = dict(state["metrics"])
        if state["member"] == self._context.member:
            self._steps, self._batches.examples = state["steps"], state["examples"]

    def close(self) -> None:
        """Nothing is held but memory."""

    def _assemble(self, values: Mapping[str, Value]) -> Controls:
        """Network, optimiser and loss for these values, the network's weights on the member's own seed."""
        task = self._task
        built = build_network(
            task.network,
            values,
            device=self._device,
            seed=self._context.seed,
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


def _curve_signals(losses: np.ndarray[Any, Any]) -> dict[str, float]:
    mean = float(losses.mean())
    if len(losses) < 2:
        return {"train_loss": mean}
    time = np.linspace(-0.5, 0.5, len(losses))
    slope = float(time @ losses / (time @ time))
    residual = losses - mean - slope * time
    scale = float(np.abs(losses).mean()) + 1e-12
    return {
        "train_loss": mean,
        "loss_slope": slope / scale,
        "loss_noise": float(np.sqrt(np.mean(residual**2))) / scale,
    }


def _relative_change(before: list[torch.Tensor], parameters: list[nn.Parameter]) -> float:
    moved = torch._foreach_sub([parameter.detach() for parameter in parameters], before)
    return float(get_total_norm(moved) / (get_total_norm(before) + 1e-12))
