"""Calls Ray's logger callbacks as Tune would. Each has a thread of its own, so that one that hangs delays no other."""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from raytune_rl.records import Value
from raytune_rl.rundir.layout import RunDirectory
from raytune_rl.rundir.plain import HIDDEN, plain
from raytune_rl.tracking.adapting import go_on_with, set_up
from raytune_rl.tracking.history import Note, write_note
from raytune_rl.tracking.results import Entry
from raytune_rl.tracking.trials import MemberTrial

BACKLOG = 10_000
"""The largest number of segments that may wait for a slow callback; further ones are dropped."""

NICE = 15
"""Niceness of the process: on a busy machine it gets a few percent of a core, and training the rest."""


@dataclass(frozen=True, kw_only=True)
class Population:
    """The population whose results are logged.

    Attributes:
        root: the run directory on this machine.
        group: ``<experiment>-<run>``, unique, and the same in all sessions of a run.
        members: number of members.
        starts: in a resumed run, the members' starting values; otherwise empty.
        written: in a resumed run, the number of logged segments of each member; otherwise empty.
        resumed: whether an earlier session has logged to the same place.
    """

    root: str
    group: str
    members: int
    starts: Mapping[int, Mapping[str, Value]] = field(default_factory=dict)
    written: Mapping[int, int] = field(default_factory=dict)
    resumed: bool = False


class Loggers:
    """All callbacks of a run.

    Args:
        callbacks: Ray's ``LoggerCallback``s.
        population: the population whose results are logged.
        tensorboard: whether to add a ``TBXLoggerCallback`` if there is none.
    """

    def __init__(self, callbacks: Sequence[Any], population: Population, *, tensorboard: bool = True) -> None:
        callbacks = list(callbacks)
        if tensorboard and "tensorboard" not in map(folder_name, callbacks):
            callbacks.append(_tensorboard_logger())
        self._threads = [_CallbackThread(callback, population) for callback in callbacks]
        for thread in self._threads:
            thread.start()

    def log(self, entries: Sequence[Entry]) -> list[str]:
        """Log segments, given in order. Returns at once, with new problems that the user should see."""
        for thread in self._threads:
            thread.take(entries)
        return self._problems()

    def finish(self, seconds: float) -> list[str]:
        """End every member's run and wait until all is written, but not longer than ``seconds``. Returns new problems
        that the user should see."""
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.end()
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        late = [
            f"{thread.name} has not finished after {seconds:g} s; what it has not written yet is lost"
            for thread in self._threads
            if thread.is_alive()
        ]
        return self._problems() + late

    @property
    def written(self) -> dict[int, int]:
        """By member, the number of segments that all callbacks have certainly written."""
        by_callback = [dict(thread.written) for thread in self._threads if not thread.off]
        members = sorted({member for written in by_callback for member in written})
        return {member: min(written.get(member, 0) for written in by_callback) for member in members}

    def _problems(self) -> list[str]:
        return [thread.problems.get_nowait() for thread in self._threads for _ in range(thread.problems.qsize())]


class LoggingProcess(Loggers):
    """``Loggers`` as a Ray actor, in the environment of the driver but in a process of its own.

    Args:
        environment: the driver's environment variables, with API keys and server addresses.
        directory: the driver's working directory, for relative paths.
    """

    def __init__(
        self,
        callbacks: Sequence[Any],
        population: Population,
        *,
        tensorboard: bool,
        environment: Mapping[str, str],
        directory: str,
    ) -> None:
        os.nice(NICE)
        os.environ.update(environment)
        os.chdir(directory)
        self._group = population.group
        self._directory = RunDirectory(population.root)
        self._noted: dict[int, int] = {}
        super().__init__(callbacks, population, tensorboard=tensorboard)

    def log(self, entries: Sequence[Entry]) -> list[str]:
        problems = super().log(entries)
        self._note()
        return problems

    def finish(self, seconds: float) -> list[str]:
        problems = super().finish(seconds)
        self._note()
        return problems

    def _note(self) -> None:
        """Store how far the callbacks have come, for the next session if this one is killed."""
        written = self.written
        if written != self._noted:
            self._noted = written
            with contextlib.suppress(OSError):  # disk full: then the next session logs some segments again
                write_note(self._directory, Note(group=self._group, written=written))


class _CallbackThread(threading.Thread):
    """Drives one callback. If that raises, it is switched off, and ``problems`` gets a sentence about it."""

    def __init__(self, callback: Any, population: Population) -> None:
        super().__init__(name=type(callback).__name__, daemon=True)
        self.problems: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._callback = callback
        self._population = population
        self._entries: queue.SimpleQueue[Entry | None] = queue.SimpleQueue()
        self.written = dict(population.written)
        self._trials: dict[int, MemberTrial] = {}
        self._folder = Path(population.root) / folder_name(callback)
        self.off = False
        self._behind = False

    def take(self, entries: Sequence[Entry]) -> None:
        if self.off:
            return
        if self._entries.qsize() + len(entries) > BACKLOG:
            if not self._behind:
                self.problems.put(f"{self.name} is {BACKLOG} segments behind and leaves out what it cannot take")
            self._behind = True
            return
        for entry in entries:
            self._entries.put(entry)

    def end(self) -> None:
        self._entries.put(None)

    def run(self) -> None:
        try:
            self._work()
        except Exception as error:
            self.off = True
            self.problems.put(
                f"{self.name} is switched off, the run goes on without it: {type(error).__name__}: "
                f"{_without_secrets(str(error), self._callback)}"
            )

    def _work(self) -> None:
        set_up(self._callback, members=self._population.members, resumed=self._population.resumed)
        while (entry := self._entries.get()) is not None:
            trial = self._trials.get(entry.member) or self._make_trial(entry)
            if trial.status != MemberTrial.RUNNING:  # a new one, or one whose last segment is trained again
                trial.set_status(MemberTrial.RUNNING)
                self._callback.log_trial_start(trial)
            result = {**entry.result, "trial_id": trial.trial_id}
            self._callback.log_trial_result(entry.iteration, trial, result)
            self.written[entry.member] = entry.iteration - 1  # the last one may still be in a buffer
            if entry.over:
                self._end(trial, failed=False)
        for trial in self._trials.values():
            if trial.status == MemberTrial.RUNNING:  # interrupted, or given up
                self._end(trial, failed=True)
        self._callback.on_experiment_end(trials=list(self._trials.values()))

    def _make_trial(self, entry: Entry) -> MemberTrial:
        member = entry.member
        trial = self._trials[member] = MemberTrial(
            folder=self._folder / f"member-{member}",
            group=self._population.group,
            member=member,
            config=self._population.starts.get(member, entry.result["config"]),
        )
        trial.init_local_path()
        if self._population.resumed:
            go_on_with(self._callback, trial)
        return trial

    def _end(self, trial: MemberTrial, *, failed: bool) -> None:
        trial.set_status(MemberTrial.ERROR if failed else MemberTrial.TERMINATED)
        self._callback.log_trial_end(trial, failed=failed)
        self.written[trial.member] += 1


def folder_name(callback: Any) -> str:
    """The folder for a callback's files in the run directory: ``wandb`` for ``WandbLoggerCallback``."""
    kind = next(base for base in type(callback).mro() if base.__module__.startswith("ray."))
    name = kind.__name__.removesuffix("Callback").removesuffix("Logger").lower()
    return {"tbx": "tensorboard", "": type(callback).__name__.lower()}.get(name, name)


def _tensorboard_logger() -> Any:
    """A ``TBXLoggerCallback``, made without importing torch. If torch is installed, tensorboardX would import it to
    convert tensors, which takes seconds and 200 MB and is not needed here."""
    if "torch" not in sys.modules and "tensorboardX" not in sys.modules:
        sys.modules["torch"] = None  # type: ignore[assignment]  # makes ``import torch`` raise ImportError
        try:
            import_module("tensorboardX")
        finally:
            del sys.modules["torch"]
    from ray.tune.logger import TBXLoggerCallback

    return TBXLoggerCallback()


def _without_secrets(message: str, callback: Any) -> str:
    """The first line of an error message, with the values of secrets hidden: those fields of the callback and
    environment variables whose names say that they are secret."""
    line = (message.strip().splitlines() or [""])[0]
    fields = {**os.environ, **vars(callback), **getattr(callback, "kwargs", {})}
    for name, value in fields.items():
        if isinstance(value, str) and value and plain({name: value}) == {name: HIDDEN}:
            line = line.replace(value, HIDDEN)
    return str(plain(line))[:300]
