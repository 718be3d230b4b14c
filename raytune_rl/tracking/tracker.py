"""The driver's side of experiment tracking: sends the controller's steps to the logging process."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import re
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

from raytune_rl.errors import first_line
from raytune_rl.records import Step
from raytune_rl.rundir.layout import RunDirectory
from raytune_rl.tracking.history import History, Note, read_history, read_note, write_note
from raytune_rl.tracking.results import Entry, entries_of

logger = logging.getLogger(__name__)

BATCH_SECONDS = 1.0
"""Steps are sent in batches; this is the longest time that a step waits."""

START_SECONDS = 10.0
"""The logging process starts this long after the first step, or at the end of a shorter run. Its start takes two to
three seconds of a core, and at first all cores are busy with starting the trials."""

FINISH_SECONDS = 300.0
"""How long a run waits at its end for slow callbacks (uploads, say)."""

KEPT_HERE = ("RAY_", "CUDA_", "OMP_")
"""Prefixes of environment variables that are not passed on, since Ray sets them for each process."""


class Tracker:
    """Passes a run's members on to Ray's logger callbacks. A context manager; Ray must be initialised.

    Callbacks can neither slow down a run nor make it fail: ``record`` only puts a step into a queue, a callback that
    raises is switched off with a warning, and so is all tracking if its process dies.

    Args:
        callbacks: Ray's ``LoggerCallback``s, in addition to the one for TensorBoard; ``None`` = no tracking at all.
        directory: the run directory. TensorBoard's files go into ``tensorboard/``, those of ``WandbLoggerCallback``
            into ``wandb/`` and so on, with a folder per member. If the run directory is not local, they are copied
            there at the end.
        name: of the experiment.
        members: size of the population.
    """

    def __init__(self, callbacks: Sequence[Any] | None, directory: RunDirectory, *, name: str, members: int) -> None:
        self._callbacks = callbacks
        self._directory = directory
        self._name = re.sub(r"[^\w.]+", "-", name) or "run"
        self._members = members
        self._steps: queue.SimpleQueue[Step | None] = queue.SimpleQueue()
        self._stack = contextlib.ExitStack()
        self._thread: threading.Thread | None = None
        self._process: Any = None
        self._waiting: list[Any] = []
        self._note: Note | None = None
        self._history = History()

    def __enter__(self) -> Self:
        if self._callbacks is not None:
            self._read_earlier_sessions()
            self._thread = threading.Thread(target=self._run, name="tracking", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def record(self, step: Step) -> None:
        """Record one step of the controller. Takes microseconds."""
        if self._thread is not None and self._thread.is_alive():
            self._steps.put(step)

    def finish(self) -> None:
        """Announce that there will be no more steps. Returns at once; callbacks finish while the run computes its
        summary."""
        self._steps.put(None)

    def close(self) -> None:
        """Wait until everything is written."""
        if self._thread is None:
            return
        self.finish()
        self._thread.join(2.0)
        if self._thread.is_alive():
            logger.info("waiting for the experiment trackers to write their last")
            self._thread.join(FINISH_SECONDS + 10.0)
        self._thread = None

    def _read_earlier_sessions(self) -> None:
        try:
            self._note = read_note(self._directory)
            self._history = read_history(self._directory, self._note.written if self._note is not None else {})
        except (OSError, ValueError, LookupError) as error:
            logger.warning("what earlier sessions have not shown to the trackers is left out: %s", first_line(error))

    # -- in the thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with self._stack:
                for batch in self._batches():
                    self._send([each for entry in batch for each in (*self._history.before(entry), entry)])
                if rest := self._history.rest():
                    self._send(rest)
                self._end()
        except Exception as error:
            logger.warning("experiment tracking is off: %s: %s", type(error).__name__, first_line(error))

    def _batches(self) -> Iterator[list[Entry]]:
        over = False
        while not over:
            step: Step | bool | None = self._steps.get()
            end = time.monotonic() + (START_SECONDS if self._process is None else BATCH_SECONDS)
            entries: list[Entry] = []
            while isinstance(step, Step):
                entries += entries_of(step)
                step = self._next_before(end)
            over = step is None
            if entries:
                yield entries

    def _next_before(self, end: float) -> Step | bool | None:
        """The next step; ``None`` if there will be no more, ``False`` if none has come in time."""
        try:
            return self._steps.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            return False

    def _send(self, entries: list[Entry]) -> None:
        if self._process is None:
            self._process = self._start()
        self._waiting.append(self._process.log.remote(entries))
        self._listen(timeout=0)

    def _listen(self, timeout: float) -> None:
        """Log the problems that the logging process has reported."""
        import ray

        ready, self._waiting = ray.wait(self._waiting, num_returns=len(self._waiting), timeout=timeout)
        for problems in ray.get(ready):
            for problem in problems:
                logger.warning("%s", problem)

    def _end(self) -> None:
        if self._process is None:
            return
        import ray

        self._waiting.append(self._process.finish.remote(FINISH_SECONDS))
        self._listen(timeout=FINISH_SECONDS + 5.0)
        if self._waiting:
            logger.warning("the experiment trackers do not answer; what they have not written yet is lost")
        ray.kill(self._process)

    def _start(self) -> Any:
        import ray

        from raytune_rl.tracking.adapting import on_this_node
        from raytune_rl.tracking.loggers import LoggingProcess, Population

        if self._directory.local is None:
            logger.info("%s is not a local directory: TensorBoard's files are copied there at the end", self._directory)
        root = self._stack.enter_context(self._directory.staging(""))
        note = self._note or Note(group=f"{self._name}-{secrets.token_hex(4)}")
        if self._note is None:
            write_note(self._directory, note)
        population = Population(
            root=str(root.absolute()),
            group=note.group,
            members=self._members,
            starts=self._history.starts,
            written=note.written,
            resumed=self._note is not None,
        )
        return (
            ray.remote(LoggingProcess)
            .options(**on_this_node())
            .remote(
                list(self._callbacks or ()),
                population,
                tensorboard=True,
                environment={n: v for n, v in os.environ.items() if not n.startswith(KEPT_HERE)},
                directory=os.getcwd(),
            )
        )
