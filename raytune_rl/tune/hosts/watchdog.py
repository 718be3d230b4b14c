"""Ends the process when a member's segment takes too long.

Python cannot stop a training loop that hangs, so the actor ends its own process. Tune restarts it, and a note in the
state directory tells the new process which member hung.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)

EXIT_CODE = 75
"""Exit status of a process that ended itself because of a hang."""


class Watchdog:
    """Watches one piece of work at a time from a thread of its own.

    Args:
        timeout: seconds that one piece of work may take; ``None`` or infinity: for ever.
        exit: ends the process; tests pass a function that doesn't.

    Its thread needs Python's global interpreter lock: a C extension that never releases the lock is not caught.
    """

    def __init__(self, timeout: float | None, *, exit: Callable[[int], object] = os._exit) -> None:
        self.timeout = timeout
        self._exit = exit
        self._changed = threading.Condition()
        self._deadline: float | None = None
        self._expired: Callable[[], None] = lambda: None
        self._closed = False
        self._thread: threading.Thread | None = None

    @contextmanager
    def watching(self, expired: Callable[[], None], pieces: int = 1) -> Iterator[None]:
        """Inside, the clock runs: after ``pieces`` times the timeout ``expired`` is called and the process ends."""
        if self.timeout is None or self.timeout == float("inf"):
            yield
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="raytune_rl-watchdog", daemon=True)
            self._thread.start()
        # No notify: the thread polls often enough, and waking it would cost a thread switch per segment.
        self._expired, self._deadline = expired, time.monotonic() + pieces * self.timeout
        try:
            yield
        finally:
            self._deadline = None

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _watch(self) -> None:
        assert self.timeout is not None
        pause = min(1.0, max(0.01, self.timeout / 10))
        with self._changed:
            while not self._closed:
                self._changed.wait(pause)
                deadline = self._deadline
                if deadline is not None and time.monotonic() > deadline:
                    break
            else:
                return
        try:
            self._expired()
        except Exception:
            logger.exception("cannot leave a note about the hang")
        finally:
            self._exit(EXIT_CODE)
