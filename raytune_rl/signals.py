"""Ctrl-C and SIGTERM: finish the segments under way and save, or, asked twice, give up at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


class Stoppable:
    """Whoever can be asked to stop now. Where nobody can, an interruption ends what is going on."""

    def __init__(self) -> None:
        self._request: Callable[[str], None] | None = None
        self.reason: str | None = None

    @contextlib.contextmanager
    def by(self, request: Callable[[str], None]) -> Iterator[None]:
        """Inside, ``request(reason)`` is how to stop. Called at once if the wish came before."""
        self._request = request
        if self.reason is not None:
            request(self.reason)
        try:
            yield
        finally:
            self._request = None

    def stop(self, reason: str) -> None:
        """Raises ``KeyboardInterrupt`` when nobody can be asked, or was asked before."""
        if self._request is None or self.reason is not None:
            raise KeyboardInterrupt
        self.reason = reason
        self._request(reason)


@contextlib.contextmanager
def stopping_on_signals() -> Iterator[Stoppable]:
    """Signals go to the ``Stoppable`` while inside. Outside the main thread (a notebook's worker, say) none arrive."""
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
