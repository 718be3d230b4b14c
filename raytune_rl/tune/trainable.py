"""Makes any unchanged Ray Tune class Trainable a candidate.

The instance lives inside our own actor. Its checkpoints, made by its own ``save`` and ``restore``, are the member's
state, and its ``reset_config`` changes hyperparameters while it runs. The order of these calls matters: a
``reset_config`` may rebuild the model (then the state must be restored after it), and a ``restore`` may bring back the
hyperparameters of the checkpoint (ray issue 62173; then it must come before the change). ``find_reset_order`` finds out
which of the two holds for a class.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from ray import tune
from ray.air.constants import TRAINING_ITERATION
from ray.tune.result import AUTO_RESULT_KEYS, DEBUG_METRICS, DONE, TIME_TOTAL_S

from raytune_rl.population.candidate import MemberContext, SegmentResult, State
from raytune_rl.records import Value
from raytune_rl.tune.adapter import homeless, training_result
from raytune_rl.tune.random_streams import RandomStreams

logger = logging.getLogger(__name__)

ResetOrder: TypeAlias = Literal["keeps", "rebuilds", "unsupported"]
"""What ``reset_config`` does to the trained state. ``keeps``: nothing, so a change needs no checkpoint and comes after
a ``restore``. ``rebuilds``: it loses the state, so a checkpoint is restored afterwards (the order of Ray's own PBT).
``unsupported``: it returned False, so a new instance has to continue from a checkpoint."""

_NOT_METRICS = frozenset((*AUTO_RESULT_KEYS, *DEBUG_METRICS, DONE, "experiment_tag"))
_orders: dict[type, ResetOrder] = {}  # by class, what this process has found out


@dataclass(frozen=True, kw_only=True)
class InMemoryCheckpoint:
    """One checkpoint of a Trainable.

    Attributes:
        files: content by relative path, as uint8 arrays.
        counters: Tune's own counts and times that belong to it.
        hyperparameters: those that were in force.
    """

    files: Mapping[str, np.ndarray]
    counters: Mapping[str, Any] = field(default_factory=dict)
    hyperparameters: Mapping[str, Value] = field(default_factory=dict)

    @classmethod
    def read(cls, directory: Path, counters: Mapping[str, Any] | None = None) -> InMemoryCheckpoint:
        """The files of a checkpoint's directory."""
        paths = [path for path in sorted(directory.rglob("*")) if path.is_file()]
        files = {path.relative_to(directory).as_posix(): np.fromfile(path, dtype=np.uint8) for path in paths}
        return cls(files=files, counters=counters or {})

    def write(self, directory: Path) -> None:
        for name, content in self.files.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            content.tofile(path)

    def same_files(self, other: InMemoryCheckpoint) -> bool:
        return self.files.keys() == other.files.keys() and all(
            np.array_equal(content, other.files[name]) for name, content in self.files.items()
        )


_scratch: list[Path] = []  # empty directories of this process, for the next use


@contextlib.contextmanager
def scratch_directory() -> Iterator[Path]:
    """An empty temporary directory. It is emptied and used again, because making and removing a directory takes longer
    than writing a small checkpoint; ``remove_scratch`` removes it."""
    directory = _scratch.pop() if _scratch else Path(tempfile.mkdtemp(prefix="raytune_rl-"))
    try:
        yield directory
    finally:
        for entry in os.scandir(directory):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry, ignore_errors=True)
            else:
                os.unlink(entry)
        _scratch.append(directory)


def remove_scratch() -> None:
    """Remove the scratch directories of this process."""
    while _scratch:
        shutil.rmtree(_scratch.pop(), ignore_errors=True)


def take_checkpoint(instance: tune.Trainable) -> InMemoryCheckpoint:
    """The instance's checkpoint, by its own ``save``."""
    with scratch_directory() as directory:
        instance.save(str(directory))
        counters = {TRAINING_ITERATION: instance.training_iteration, TIME_TOTAL_S: instance.get_state()["time_total"]}
        return InMemoryCheckpoint.read(directory, counters)


def restore_checkpoint(instance: tune.Trainable, checkpoint: InMemoryCheckpoint) -> None:
    """Continue from a checkpoint, by the instance's own ``restore``."""
    with scratch_directory() as directory:
        checkpoint.write(directory)
        instance.restore(training_result(directory, checkpoint.counters))


def reset_config(instance: tune.Trainable, config: Mapping[str, Any]) -> bool:
    """Call the instance's ``reset_config`` as Tune does, but keep its counters: ``Trainable.reset`` zeroes them."""
    before = instance.config
    instance.config = dict(config)
    try:
        succeeded = bool(instance.reset_config(dict(config)))
    except NotImplementedError:
        succeeded = False
    instance.config = dict(config) if succeeded else before
    return succeeded


def find_reset_order(instance: tune.Trainable) -> ResetOrder:
    """Try a ``reset_config`` with the present configuration and compare the checkpoints before and after.

    The instance must have trained, or a rebuilt model could look like the old one. It is left as it was (for
    ``unsupported``: as its ``reset_config`` left it, which is documented to do nothing then). A class whose checkpoints
    always differ counts as ``rebuilds``: existing Trainables are written for that order, because Ray's PBT uses it.
    """
    if type(instance).reset_config is tune.Trainable.reset_config:
        return "unsupported"
    before = take_checkpoint(instance)
    if not reset_config(instance, instance.config):
        return "unsupported"
    if take_checkpoint(instance).same_files(before):
        return "keeps"
    restore_checkpoint(instance, before)
    return "rebuilds"


def reset_order(instance: tune.Trainable, cls: type[tune.Trainable]) -> ResetOrder:
    """What ``find_reset_order`` says of ``cls``, found out once per process with an ``instance`` that has trained."""
    if cls not in _orders:
        _orders[cls] = find_reset_order(instance)
        logger.debug("reset_config of %s: %s", cls.__name__, _orders[cls])
    return _orders[cls]


def change_config(
    instance: tune.Trainable, config: Mapping[str, Any], order: ResetOrder, state: InMemoryCheckpoint | None = None
) -> bool:
    """Give the instance a new configuration and ``state``; without ``state`` it keeps its own.

    Returns False if ``reset_config`` refused: then the caller has to build a new instance with ``config`` and restore
    into it.
    """
    if order == "unsupported":
        return False
    if order == "keeps":
        if state is not None:
            restore_checkpoint(instance, state)
        return reset_config(instance, config)
    kept = state if state is not None else take_checkpoint(instance)
    if not reset_config(instance, config):
        return False
    restore_checkpoint(instance, kept)
    return True


@dataclass(frozen=True, kw_only=True)
class TrainableTask:
    """A Ray Tune class Trainable as a candidate.

    Attributes:
        trainable: the class, unchanged. It needs ``save_checkpoint`` and ``load_checkpoint``, as for Ray's PBT.
        config: entries of its configuration that are not hyperparameters.

    A segment's length counts calls of ``train``. The metrics are the numbers of its last result, nested ones joined by
    ``/`` as Tune does. A hyperparameter's effective value is the number that the result has under its name, or else the
    entry in the instance's ``config``.
    """

    trainable: type[tune.Trainable]
    config: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        cls: Any = self.trainable
        if not (isinstance(cls, type) and issubclass(cls, tune.Trainable)):
            raise ValueError(
                f"TrainableTask.trainable is {self.trainable!r}; it must be a subclass of ray.tune.Trainable."
            )
        for method in ("save_checkpoint", "load_checkpoint"):
            if getattr(self.trainable, method) is getattr(tune.Trainable, method):
                raise ValueError(
                    f"{self.trainable.__name__} has no {method}; members are copied and resumed by their checkpoints."
                )

    def check(self, hyperparameters: Mapping[str, Value]) -> None:
        for name in hyperparameters:
            if name in self.config:
                raise ValueError(f"{name!r} is a hyperparameter and in TrainableTask.config as well; keep one of them.")

    def build(self, context: MemberContext, hyperparameters: Mapping[str, Value]) -> TrainableMember:
        return TrainableMember(self, context, hyperparameters)

    def export(self, state: State, directory: Path) -> None:
        """The Trainable's own checkpoint files."""
        directory.mkdir(parents=True, exist_ok=True)
        InMemoryCheckpoint(files=state["files"]).write(directory)

    def test(self, state: State) -> Mapping[str, float]:
        return {}


class TrainableMember:
    """One live instance of a Trainable. Implements ``population.candidate.Member``."""

    def __init__(self, task: TrainableTask, context: MemberContext, hyperparameters: Mapping[str, Value]) -> None:
        self._task = task
        self._member = context.member
        self._random = RandomStreams(context.seed)
        self._hyperparameters = dict(hyperparameters)
        self._restored: InMemoryCheckpoint | None = None  # set by set_state; the next apply or train restores it
        with self._random:
            self._instance = self._new_instance()

    def apply(self, hyperparameters: Mapping[str, Value]) -> Mapping[str, Value]:
        wanted = {**self._hyperparameters, **hyperparameters}
        state, self._restored = self._restored, None
        if state is None and wanted == self._hyperparameters:
            return self._effective()
        self._hyperparameters = wanted
        with self._random:
            self._change(state)
        return self._effective()

    def train(self, length: int) -> SegmentResult:
        if self._restored is not None:
            self.apply({})
        result: Mapping[str, Any] = {}
        steps = 0
        with self._random:
            for _ in range(length):
                result = self._instance.train()
                steps += 1
                if result.get(DONE):
                    break
        metrics = numbers(result)
        return SegmentResult(metrics=metrics, steps=steps, done=bool(result.get(DONE)))

    def get_state(self) -> State:
        with self._random:
            checkpoint = self._restored or take_checkpoint(self._instance)
        return {
            "files": dict(checkpoint.files),
            "counters": dict(checkpoint.counters),
            "member": self._member,
            "hyperparameters": dict(self._hyperparameters if self._restored is None else checkpoint.hyperparameters),
            "random": self._random.state,
        }

    def set_state(self, state: State) -> None:
        if state["member"] == self._member:  # its own past: continue exactly there
            self._random.state = state["random"]
            self._hyperparameters = dict(state["hyperparameters"])
        # Not restored yet: the next apply or train knows whether the new configuration comes before or after that.
        self._restored = InMemoryCheckpoint(
            files=state["files"], counters=state["counters"], hyperparameters=state["hyperparameters"]
        )

    def close(self) -> None:
        self._instance.stop()
        remove_scratch()

    def _change(self, state: InMemoryCheckpoint | None) -> None:
        """Give the instance the present hyperparameters, and ``state`` if there is one."""
        if state is not None and self._order() is None:
            self._adopt(state)
            state = None
        order = self._order()
        if order is not None and change_config(self._instance, self._config(), order, state):
            return
        trained = self._instance.training_iteration > 0
        kept = state or (take_checkpoint(self._instance) if trained else None)
        self._instance.stop()
        self._instance = self._new_instance()
        if kept is not None:
            restore_checkpoint(self._instance, kept)

    def _adopt(self, state: InMemoryCheckpoint) -> None:
        """Continue from ``state`` under its own configuration, so that ``find_reset_order`` can then be tried on it."""
        restore_checkpoint(self._instance, state)
        if reset_config(self._instance, {**self._task.config, **state.hyperparameters}):
            restore_checkpoint(self._instance, state)

    def _order(self) -> ResetOrder | None:
        """How to change this class's configuration; ``None`` as long as that cannot be found out."""
        cls = self._task.trainable
        known = cls in _orders or self._instance.training_iteration > 0
        return reset_order(self._instance, cls) if known else None

    def _config(self) -> dict[str, Any]:
        return {**self._task.config, **self._hyperparameters}

    def _new_instance(self) -> tune.Trainable:
        return homeless(self._task.trainable)(config=self._config())

    def _effective(self) -> dict[str, Value]:
        return {name: self._instance.config.get(name, value) for name, value in self._hyperparameters.items()}


def numbers(result: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The metrics of a Tune result: its numbers, nested ones joined by ``/``, without what Tune adds by itself."""
    metrics: dict[str, float] = {}
    for key, value in result.items():
        if not prefix and key in _NOT_METRICS:
            continue
        if isinstance(value, Mapping):
            metrics.update(numbers(value, f"{prefix}{key}/"))
        elif isinstance(value, int | float | np.number):
            with contextlib.suppress(TypeError, OverflowError):
                metrics[f"{prefix}{key}"] = float(value)
    return metrics
