"""K members of one architecture that train as one batched program."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import nn

from raytune_rl.errors import BadInput
from raytune_rl.population.candidate import State
from raytune_rl.population.evaluation import Loss, Metric
from raytune_rl.population.optimisers import OptimizerName
from raytune_rl.population.packed import scoring, signals, start, states
from raytune_rl.population.packed.batches import BatchSource, BulkBatches, OwnBatches
from raytune_rl.population.packed.engine import Engine
from raytune_rl.population.packed.layout import Layout, same_shapes
from raytune_rl.population.packed.linear import LinearEngine
from raytune_rl.population.packed.losses import PackedLoss
from raytune_rl.population.packed.masks import BulkMasks, OwnMasks
from raytune_rl.population.packed.settings import DEFAULTS, Numbers, Settings
from raytune_rl.population.packed.stack import parse
from raytune_rl.population.packed.updates import make_update
from raytune_rl.population.splits import Split, Splits
from raytune_rl.records import Value

PROBES = 8
"""As in ``torch_member.py``: about so many steps per segment have their gradient and their update measured."""

Members: TypeAlias = Sequence[int] | torch.Tensor
Augment: TypeAlias = Callable[[torch.Tensor, torch.Tensor, torch.Generator], torch.Tensor]
"""``augment(inputs, strength, generator)``: inputs (members, B, ...), strength (members,) -> inputs of that shape."""


class PackedPopulation:
    """Numbers in, tensors out. Everything that is "of each member" has a first dimension of K, in the same order.

    All members share architecture, data, loss and optimiser; each has its own weights, batches and hyperparameters:
    ``learning_rate``, ``weight_decay``, ``momentum`` (Adam's first beta), ``beta2``, ``grad_clip`` (0 = none),
    ``batch_size``, ``dropout``, ``label_smoothing``, ``frozen_layers``, ``augmentation``, and numeric settings of the
    loss. They mean what they mean in ``TorchTask``, and training equals that of ``TorchMember`` one by one.

    Args:
        network: of all members, with their starting weights (one for each), or one that all of them start from;
            ``initialise`` draws weights anew.
        members: K, where ``network`` is a single one.
        splits: the data, as ``splits.load_splits`` returns them, or made of tensors directly.
        loss: the mean over the examples, as in ``TorchTask``.
        optimizer: ``"sgd"``, ``"adam"`` or ``"adamw"``.
        seeds: of each member, or one from which theirs are spawned. With the counts of steps and examples a seed says
            which batches and dropout masks come next.
        metrics: functions of (outputs, targets) of a whole split; default as in ``TorchTask``.
        bulk: for very many short trainings: cheaper random numbers (``batches.py``, ``masks.py``), and nothing that a
            member draws repeats what a ``TorchMember`` would draw.
        augment: changes the inputs of each batch, see ``Augment``; ``additive_noise`` is one.
        names: what hyperparameters are called in states and in ``write``: name -> one of those above. Default: those.
        constants: further hyperparameters for the states, equal for all members (arguments of the network).
        device: ``"cpu"`` or ``"cuda:0"``.

    Raises:
        BadInput: the networks differ in shape, or cannot be packed (one sentence says why).
    """

    def __init__(
        self,
        network: nn.Module | Sequence[nn.Module],
        *,
        members: int | None = None,
        splits: Splits,
        loss: Loss,
        optimizer: OptimizerName = "adam",
        seeds: Sequence[int] | int = 0,
        metrics: Mapping[str, Metric] | None = None,
        bulk: bool = False,
        augment: Augment | None = None,
        names: Mapping[str, str] | None = None,
        constants: Mapping[str, Value] | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        networks = [network] if isinstance(network, nn.Module) else list(network)
        if members is None:
            members = len(networks)
        if members < 1 or len(networks) not in (1, members):
            raise BadInput(f"A packed population of {members} members needs 1 or {members} networks, not {len(networks)}.")
        if any(not same_shapes(networks[0], other) for other in networks[1:]):
            raise BadInput("The networks of a packed population must have the same parameters, of the same shapes.")
        self.device = torch.device(device)
        self.template = copy.deepcopy(networks[0]).to(self.device)
        self.layout = Layout(self.template)
        self.members = members
        self.optimizer: OptimizerName = optimizer
        self.splits = Splits(
            train=_on(splits.train, self.device),
            validation=_on(splits.validation, self.device),
            test=None if splits.test is None else _on(splits.test, self.device),
        )
        self.loss = copy.deepcopy(loss).to(self.device) if isinstance(loss, nn.Module) else loss
        self.metrics = metrics
        self.parameters = states.stack_parameters(networks, self.layout, members, self.device)
        self.buffers = states.stack_buffers(networks, members, self.device)
        self.update = make_update(optimizer, self.layout, self.parameters)
        self.steps = np.zeros(members, dtype=np.int64)
        """Optimiser steps that each member has made."""
        seeds_each = _seeds(seeds, members)
        examples = len(self.splits.train)
        self.batches: BatchSource = (BulkBatches if bulk else OwnBatches)(examples, seeds_each)
        packed_loss = PackedLoss(self.loss, self.splits.train.targets, frozenset())
        like = self.parameters
        masks = BulkMasks(like, int(seeds_each[0])) if bulk else OwnMasks(like)
        operations = parse(self.template, self.layout)
        if operations is None:
            raise BadInput("not yet")
        self.engine: Engine = LinearEngine(operations, self.layout, packed_loss, masks)
        self.settings = Settings(
            members, network=self.template, layout=self.layout, sites=self.engine.sites, examples=examples
        )
        if packed_loss.classes:
            assert isinstance(self.loss, nn.CrossEntropyLoss)
            self.settings.write("label_smoothing", self.loss.label_smoothing)
        self._names = dict(names) if names is not None else states.default_names(self)
        self._constants = dict(constants or {})
        self._augment = augment
        self._noise = torch.Generator(self.device).manual_seed(int(seeds_each[0]))
        self._gradient: torch.Tensor | None = None
        self._metrics: dict[str, torch.Tensor] = {}

    # -- hyperparameters -------------------------------------------------------------------------------------------

    def write(self, name: str, values: Numbers, members: Members | None = None) -> None:
        """Set a hyperparameter of all members, or of ``members`` only: one value for all of them or one for each.

        ``dropout`` moves all dropout layers; values of shape (K, layers) set each layer. ``batch_size`` is limited to
        the size of the train split, ``frozen_layers`` leaves the last layer training.

        Raises:
            BadInput: an unknown name.
        """
        where = slice(None) if members is None else torch.as_tensor(members)
        self.settings.write(self._names.get(name, name), values, where)

    def read(self, name: str) -> torch.Tensor:
        """The values in force, a copy: shape (K,), double precision, on the CPU."""
        return self.settings.read(self._names.get(name, name))

    # -- training --------------------------------------------------------------------------------------------------

    def step(self, length: int) -> dict[str, torch.Tensor]:
        """Train all members ``length`` steps.

        Returns:
            ``train_loss``, ``loss_slope``, ``loss_noise``, ``grad_norm`` (before clipping) and ``update_norm`` of each
            member, defined as in ``mdp.state.SIGNALS``: shape (K,), double precision, on the CPU. NaN: not known
            (slope and noise of losses without logarithm), or diverged.
        """
        parts = self.engine.parts(slice(0, self.members), self.settings)
        found = [self._train(rows, length) for rows in parts]
        return {name: torch.cat([part[name] for part in found]) for name in found[0]}

    def _train(self, rows: slice, length: int) -> dict[str, torch.Tensor]:
        settings, engine, update = self.settings, self.engine, self.update
        parameters, train = self.parameters[rows], self.splits.train
        members = len(parameters)
        sizes = settings.batch_size[rows].numpy().astype(np.int64)
        names = list(zip(self.batches.seeds[rows].tolist(), self.steps[rows].tolist(), strict=True))
        index = torch.from_numpy(self.batches.take(rows, sizes, length)).to(self.device)
        batch = index.shape[2]
        weights = None
        if (sizes != batch).any():
            held = torch.from_numpy(sizes)[:, None]
            weights = torch.where(torch.arange(batch) < held, 1.0 / held.double(), 0.0).to(parameters)
        if self._gradient is None or self._gradient.shape != parameters.shape:
            self._gradient = torch.empty_like(parameters)
        gradient = self._gradient
        trains = settings.trains(rows, update.columns, parameters)
        engine.begin(rows, parameters, gradient, settings, names, batch)
        update.begin(settings, rows, length, trains)
        clip = _clip(settings.grad_clip[rows], parameters)
        strength = settings.augmentation[rows].to(parameters)
        augment = self._augment if bool((strength != 0).any()) else None
        every = max(1, length // PROBES)
        losses: list[torch.Tensor] = []
        norms: list[torch.Tensor] = []
        changes: list[torch.Tensor] = []
        with torch.no_grad():
            for step in range(length):
                chosen = index[step].view(-1)
                inputs = train.inputs.index_select(0, chosen).view(members, batch, *train.inputs.shape[1:])
                targets = train.targets.index_select(0, chosen).view(members, batch, *train.targets.shape[1:])
                if augment is not None:
                    inputs = augment(inputs, strength, self._noise)
                losses.append(engine.gradient(inputs, targets, weights))
                if trains is not None:
                    gradient.mul_(trains)
                probe = step % every == 0
                norm = signals.row_norms(gradient) if probe or clip is not None else None
                if probe and norm is not None:
                    norms.append(norm)
                    before = parameters.clone()
                if clip is not None and norm is not None:
                    gradient.mul_((clip / (norm + 1e-6)).clamp(max=1.0)[:, None])
                update.step(gradient, step)
                if probe:
                    changes.append(signals.relative_change(parameters, before, trains))
        self.steps[rows] += length
        curve = signals.curve_signals(torch.stack(losses).double().cpu().numpy())
        found = {name: torch.from_numpy(values) for name, values in curve.items()}
        found["grad_norm"] = torch.stack(norms).double().mean(0).cpu()
        found["update_norm"] = torch.stack(changes).double().mean(0).cpu()
        return found

    # -- evaluation ------------------------------------------------------------------------------------------------

    def predictions(self, split: str | Split = "validation") -> torch.Tensor:
        """Outputs of each member in evaluation mode, shape (K, N, ...), on the population's device.

        ``split``: ``"train"``, ``"validation"``, ``"test"``, or any other examples.
        """
        data = self._split(split)
        with torch.no_grad():
            parts = self.engine.parts(slice(0, self.members), self.settings)
            found = [self.engine.outputs(rows, self.parameters[rows], data.inputs) for rows in parts]
        return torch.cat(found) if len(found) > 1 else found[0]

    def evaluate(
        self, split: str | Split = "validation", outputs: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """``loss`` (as it was given, without the members' smoothing) and metrics of each member: shape (K,), double
        precision, on the CPU. Metrics are NaN where the loss is not finite.

        ``outputs``: those of ``predictions(split)``, where they are at hand.
        """
        data = self._split(split)
        found = scoring.score(
            self.predictions(data) if outputs is None else outputs, data.targets, loss=self.loss, metrics=self.metrics
        )
        return found

    # -- copies and snapshots --------------------------------------------------------------------------------------

    def copy(self, sources: Members, targets: Members, *, settings: bool = False) -> None:
        """Let ``targets`` go on from the weights and the optimiser state of ``sources`` (equally many; a source may
        occur again, a target not). A target keeps its seed and its counts, so that it does not repeat batches.

        ``settings``: take over the hyperparameters, too.
        """
        taken, changed = torch.as_tensor(sources), torch.as_tensor(targets)
        for held in self._held():
            held[changed.to(held.device)] = held[taken.to(held.device)]
        if settings:
            self.settings.copy(taken, changed)

    def bank(self, rows: int) -> Bank:
        """Room for ``rows`` snapshots of weights and optimiser state."""
        return Bank(self, rows)

    def initialise(
        self, scheme: str = "default", gain: Numbers = 1.0, *, members: Members | None = None, seed: int | None = None
    ) -> None:
        """Draw the weights of ``members`` (default: all) anew, forget their optimiser state, begin to count again.

        Args:
            scheme: ``default`` (the layers' own), ``xavier``, ``kaiming``, ``orthogonal``.
            gain: what the weights of linear and convolutional layers are multiplied by, one for all or one for each.
            seed: default: spawned from the members' own.
        """
        chosen = torch.arange(self.members) if members is None else torch.as_tensor(members)
        start.initialise(self, scheme, torch.as_tensor(gain, dtype=torch.float64), chosen, seed)

    def get_state(self, member: int) -> State:
        """A snapshot in the format of ``TorchMember.get_state``."""
        return states.get_state(self, member, self._names, self._constants)

    def set_state(self, member: int, state: State, *, own: bool = False) -> None:
        """Go on from a snapshot of this class or of a ``TorchMember`` of the same architecture.

        ``own``: it is this member's, so its seed and its counts come back, too.
        """
        states.set_state(self, member, state, self._names, own=own)

    # -- help ------------------------------------------------------------------------------------------------------

    def _held(self) -> list[torch.Tensor]:
        """Everything that a copy takes along."""
        return [self.parameters, *self.buffers.values(), *self.update.state.values()]

    def _split(self, split: str | Split) -> Split:
        if isinstance(split, Split):
            return _on(split, self.device)
        found: Split | None = getattr(self.splits, split)
        if found is None:
            raise BadInput("This population's data have no test split.")
        return found


class Bank:
    """Snapshots of weights and optimiser state, for going back: to a member's own best, say.

    Made by ``PackedPopulation.bank``. Rows that were never stored hold what the population held then.
    """

    def __init__(self, population: PackedPopulation, rows: int) -> None:
        self._population = population
        self._rows = [held[:1].repeat(rows, *[1] * (held.ndim - 1)) for held in population._held()]

    def store(self, members: Members, rows: Members) -> None:
        """Put these members into these rows."""
        self._move(self._population._held(), self._rows, members, rows)

    def load(self, rows: Members, members: Members) -> None:
        """Let these members go on from these rows; like ``PackedPopulation.copy`` otherwise."""
        self._move(self._rows, self._population._held(), rows, members)

    @staticmethod
    def _move(source: list[torch.Tensor], target: list[torch.Tensor], taken: Members, changed: Members) -> None:
        first, second = torch.as_tensor(taken), torch.as_tensor(changed)
        for held, into in zip(source, target, strict=True):
            into[second.to(into.device)] = held[first.to(held.device)]


def additive_noise(inputs: torch.Tensor, strength: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Adds normal noise with a standard deviation of ``strength`` (``Augment``)."""
    noise = torch.empty_like(inputs).normal_(generator=generator)
    return inputs + noise * strength.view(-1, *[1] * (inputs.ndim - 1))


def _clip(limits: torch.Tensor, like: torch.Tensor) -> torch.Tensor | None:
    """The largest gradient norm of each member, infinite for none; ``None`` if no member clips."""
    if not bool((limits > 0).any()):
        return None
    return torch.where(limits > 0, limits, torch.inf).to(like)


def _seeds(seeds: Sequence[int] | int, members: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    if isinstance(seeds, int):
        return (np.random.SeedSequence(seeds).generate_state(members, np.uint64) >> np.uint64(1)).astype(np.int64)
    if len(seeds) != members:
        raise BadInput(f"A packed population of {members} members needs {members} seeds, not {len(seeds)}.")
    return np.array(seeds, dtype=np.int64)


def _on(split: Split, device: torch.device) -> Split:
    return Split(inputs=split.inputs.to(device), targets=split.targets.to(device))


__all__ = ["DEFAULTS", "Augment", "Bank", "PackedPopulation", "additive_noise"]
