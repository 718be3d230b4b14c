"""Ctrl-C and SIGTERM: the first one finishes the current segments and saves, a second one gives up at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


class Stoppable:
    """Passes the wish to stop on to whatever is running. If nothing can take it, ``KeyboardInterrupt`` is raised."""

    def __init__(self) -> None:
        self._request: Callable[[str], None] | None = None
        self.reason: str | None = None

    @contextlib.contextmanager
    def by(self, request: Callable[[str], None]) -> Iterator[None]:
        """Within this context, call ``request(reason)`` to stop; at once, if a stop was asked for before."""
        self._request = request
        if self.reason is not None:
            request(self.reason)
        try:
            yield
        finally:
            self._request = None

    def stop(self, reason: str) -> None:
        """Ask to stop. Raises ``KeyboardInterrupt`` if nothing takes requests, or if a stop was asked for before."""
        if self._request is None or self.reason is not None:
            raise KeyboardInterrupt
        self.reason = reason
        self._request(reason)


@contextlib.contextmanager
def stopping_on_signals() -> Iterator[Stoppable]:
    """Pass signals to the ``Stoppable`` within this context. In other threads than the main one (say, a notebook's
    worker) no signals arrive."""
    stoppable = Stoppable()
    if threading.current_thread() is not threading.main_thread():
        yield stoppable
        return

    def handle(number: int, frame: FrameType | None) -> None:
        stoppable.stop(signal.Signals(number).name)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stoppable
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
