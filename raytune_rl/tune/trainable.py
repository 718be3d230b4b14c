"""Makes any Ray Tune class Trainable a candidate, without a change to it.

The instance lives inside our own actor. Its checkpoints, through its own ``save`` and ``restore``, are the member's
state, and ``reset_config`` is how its hyperparameters change while it runs. Two traps decide the order of the calls: a
``reset_config`` may rebuild the model (then the state must be put back after it), and a ``restore`` may bring back the
hyperparameters of the checkpoint (ray issue 62173; then the change must come after it). ``find_reset_order`` looks
which one it is.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import shutil
import sys
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

logger = logging.getLogger(__name__)

ResetOrder: TypeAlias = Literal["keeps", "rebuilds", "unsupported"]
"""What ``reset_config`` does to what has been trained. ``keeps``: nothing, so a change needs no checkpoint and comes
after a ``restore``. ``rebuilds``: loses it, so a checkpoint is put back afterwards (the order of Ray's own PBT).
``unsupported``: it returned False, so a new instance takes over from a checkpoint."""

_NOT_METRICS = frozenset((*AUTO_RESULT_KEYS, *DEBUG_METRICS, DONE, "experiment_tag"))
_orders: dict[type, ResetOrder] = {}  # what was found out in this process, by class


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One checkpoint of a Trainable in memory: its files as bytes (uint8 arrays), the counters that go with it, and
    the hyperparameters that it was taken under."""

    files: Mapping[str, np.ndarray]
    counters: Mapping[str, Any] = field(default_factory=dict)
    hyperparameters: Mapping[str, Value] = field(default_factory=dict)

    def same_files(self, other: Snapshot) -> bool:
        return self.files.keys() == other.files.keys() and all(
            np.array_equal(content, other.files[name]) for name, content in self.files.items()
        )

    def write(self, directory: Path) -> None:
        for name, content in self.files.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            content.tofile(path)


_scratch: list[Path] = []  # this process's empty directories


@contextlib.contextmanager
def scratch_directory() -> Iterator[Path]:
    """An empty directory for a moment. It is emptied and kept for the next time, since a directory takes longer to make
    and to remove than a small checkpoint to write; ``remove_scratch`` ends that."""
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
    """Leave nothing behind in the machine's temporary directory."""
    while _scratch:
        shutil.rmtree(_scratch.pop(), ignore_errors=True)


def take_snapshot(instance: tune.Trainable) -> Snapshot:
    """The instance's checkpoint, taken by its own ``save``."""
    with scratch_directory() as directory:
        instance.save(str(directory))
        paths = [path for path in sorted(directory.rglob("*")) if path.is_file()]
        files = {path.relative_to(directory).as_posix(): np.fromfile(path, dtype=np.uint8) for path in paths}
    counters = {TRAINING_ITERATION: instance.training_iteration, TIME_TOTAL_S: instance.get_state()["time_total"]}
    return Snapshot(files=files, counters=counters)


def put_snapshot(instance: tune.Trainable, snapshot: Snapshot) -> None:
    """Go on from a checkpoint, by the instance's own ``restore``."""
    with scratch_directory() as directory:
        snapshot.write(directory)
        instance.restore(training_result(directory, snapshot.counters))


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
    """Try a ``reset_config`` with the present configuration and look whether the checkpoint is still the same.

    The instance must have trained, or a rebuilt model could look like the one before. It is left as it was (for
    ``unsupported``: as its ``reset_config`` left it, which is documented to do nothing then). A class whose
    checkpoints are never twice the same counts as ``rebuilds``: that is the order that Ray's PBT uses, so it is the one
    that existing Trainables are written for.
    """
    if type(instance).reset_config is tune.Trainable.reset_config:
        return "unsupported"
    before = take_snapshot(instance)
    if not reset_config(instance, instance.config):
        return "unsupported"
    if take_snapshot(instance).same_files(before):
        return "keeps"
    put_snapshot(instance, before)
    return "rebuilds"


def change_config(
    instance: tune.Trainable, config: Mapping[str, Any], order: ResetOrder, state: Snapshot | None = None
) -> bool:
    """Give the instance a new configuration and, with ``state``, that state; without, it keeps its own.

    Returns False when ``reset_config`` refused: then the caller has to build a new instance with ``config`` and restore
    into it.
    """
    if order == "unsupported":
        return False
    if order == "keeps":
        if state is not None:
            put_snapshot(instance, state)
        return reset_config(instance, config)
    kept = state if state is not None else take_snapshot(instance)
    if not reset_config(instance, config):
        return False
    put_snapshot(instance, kept)
    return True


@dataclass(frozen=True, kw_only=True)
class TrainableTask:
    """A Ray Tune class Trainable as a candidate.

    Attributes:
        trainable: the class, unchanged. It needs ``save_checkpoint`` and ``load_checkpoint``, as for Ray's PBT.
        config: entries of its configuration that are no hyperparameters.
        done_metric: name under which the Trainable says that it has finished (Tune's ``done``).

    A segment's length counts calls of ``train``. The metrics are the numbers of its last result, nested ones joined by
    ``/`` as Tune does. A hyperparameter's effective value is the number of its own name in the result, where the
    Trainable reports one, and else what stands in its ``config``.
    """

    trainable: type[tune.Trainable]
    config: Mapping[str, Any] = field(default_factory=dict)
    done_metric: str = DONE

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
        Snapshot(files=state["files"]).write(directory)

    def test(self, state: State) -> Mapping[str, float]:
        return {}


class TrainableMember:
    """One live instance of a Trainable. Implements ``population.candidate.Member``."""

    def __init__(self, task: TrainableTask, context: MemberContext, hyperparameters: Mapping[str, Value]) -> None:
        self._task = task
        self._member = context.member
        self._random = RandomStreams(context.seed)
        self._hyperparameters = dict(hyperparameters)
        self._restored: Snapshot | None = None  # a state whose hyperparameters are still to be laid over
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
                if result.get(self._task.done_metric):
                    break
        metrics = numbers(result)
        return SegmentResult(metrics=metrics, steps=steps, done=bool(result.get(self._task.done_metric)))

    def get_state(self) -> State:
        with self._random:
            snapshot = self._restored or take_snapshot(self._instance)
        return {
            "files": dict(snapshot.files),
            "counters": dict(snapshot.counters),
            "member": self._member,
            "hyperparameters": dict(self._hyperparameters if self._restored is None else snapshot.hyperparameters),
            "random": self._random.state,
        }

    def set_state(self, state: State) -> None:
        snapshot = Snapshot(files=state["files"], counters=state["counters"], hyperparameters=state["hyperparameters"])
        if state["member"] == self._member:  # its own past: go on exactly there
            self._random.state = state["random"]
            self._hyperparameters = dict(state["hyperparameters"])
        # Carried out by the next apply or train, which knows whether the configuration comes before or after it.
        self._restored = snapshot

    def close(self) -> None:
        self._instance.stop()
        remove_scratch()

    def _change(self, state: Snapshot | None) -> None:
        """Lay the present hyperparameters, and ``state`` if there is one, over the instance."""
        if state is not None and self._order() is None:
            self._adopt(state)
            state = None
        order = self._order()
        if order is not None and change_config(self._instance, self._config(), order, state):
            return
        trained = self._instance.training_iteration > 0
        kept = state or (take_snapshot(self._instance) if trained else None)
        self._instance.stop()
        self._instance = self._new_instance()
        if kept is not None:
            put_snapshot(self._instance, kept)

    def _adopt(self, state: Snapshot) -> None:
        """Go on from ``state`` under its own configuration: then it is plain what a reset with that does to it."""
        put_snapshot(self._instance, state)
        if reset_config(self._instance, {**self._task.config, **state.hyperparameters}):
            put_snapshot(self._instance, state)

    def _order(self) -> ResetOrder | None:
        """How to change this class's configuration; ``None`` as long as that cannot be found out."""
        cls = self._task.trainable
        if cls not in _orders and self._instance.training_iteration > 0:
            _orders[cls] = find_reset_order(self._instance)
            logger.debug("reset_config of %s: %s", cls.__name__, _orders[cls])
        return _orders.get(cls)

    def _config(self) -> dict[str, Any]:
        return {**self._task.config, **self._hyperparameters}

    def _new_instance(self) -> tune.Trainable:
        return homeless(self._task.trainable)(config=self._config())

    def _effective(self) -> dict[str, Value]:
        return {name: self._instance.config.get(name, value) for name, value in self._hyperparameters.items()}


class RandomStreams:
    """The process's global random streams, made a member's own for as long as it is inside.

    Unchanged Trainables draw from ``random``, ``numpy.random`` and torch's default generator. Members share a process,
    so without this a member's numbers would depend on its neighbours and on every copy. Use as a context manager; what
    the process had before is put back.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._python = random.Random(seed).getstate()
        self._numpy = np.random.MT19937(seed)
        self._torch: Any = None  # seeded when the process has imported torch

    @property
    def state(self) -> dict[str, Any]:
        """A copy, for checkpoints."""
        return {"python": self._python, "numpy": self._numpy.state, "torch": self._torch}

    @state.setter
    def state(self, state: Mapping[str, Any]) -> None:
        self._python, self._numpy.state, self._torch = state["python"], state["numpy"], state["torch"]

    def __enter__(self) -> None:
        # numpy's generator is exchanged, not copied: its state is large. That forgets the second half of a pair of
        # Gaussian numbers, at every entry, so still the same in every run.
        torch = sys.modules.get("torch")
        generator = np.random.get_bit_generator()  # type: ignore[attr-defined]  # numpy's stubs forget these two
        self._outside = (random.getstate(), generator, torch and torch.get_rng_state())
        random.setstate(self._python)
        np.random.set_bit_generator(self._numpy)  # type: ignore[attr-defined]
        if torch is not None and self._torch is None:
            torch.manual_seed(self._seed)
        elif torch is not None:
            torch.set_rng_state(torch.from_numpy(np.array(self._torch)))

    def __exit__(self, *_: object) -> None:
        python, generator, torch_state = self._outside
        self._python = random.getstate()
        random.setstate(python)
        np.random.set_bit_generator(generator)  # type: ignore[attr-defined]
        if torch := sys.modules.get("torch"):
            self._torch = torch.get_rng_state().numpy().copy()
            if torch_state is not None:
                torch.set_rng_state(torch_state)


def numbers(result: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The metrics of a Tune result: its numbers, nested ones joined by ``/``, without what Tune adds by itself."""
    found: dict[str, float] = {}
    for key, value in result.items():
        if not prefix and key in _NOT_METRICS:
            continue
        if isinstance(value, Mapping):
            found.update(numbers(value, f"{prefix}{key}/"))
        elif isinstance(value, int | float | np.number):
            with contextlib.suppress(TypeError, OverflowError):
                found[f"{prefix}{key}"] = float(value)
    return found
