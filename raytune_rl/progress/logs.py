"""Sends the messages of the logger ``raytune_rl`` to the console, above the display, and into the run directory."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

LOGGER = "raytune_rl"
_STYLE = {logging.WARNING: "yellow", logging.ERROR: "red", logging.CRITICAL: "bold red"}


class ConsoleHandler(logging.Handler):
    """Prints through rich's console, so that messages appear above the live screen without disturbing it."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        try:
            prefix = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
            text = Text(prefix + self.format(record), style=_STYLE.get(record.levelno, ""))
            self._console.print(text, soft_wrap=not self._console.is_terminal, highlight=False)
        except Exception:
            self.handleError(record)


@contextmanager
def logging_to(console: Console, *, quiet: bool = False, verbose: bool = False) -> Iterator[None]:
    """Within this context, send messages to the console: warnings, everything if ``verbose``, errors only if ``quiet``.

    Other handlers, such as the run directory's ``RunLog``, get information and above (everything if ``verbose``).
    """
    logger = logging.getLogger(LOGGER)
    screen = ConsoleHandler(console)
    screen.setLevel(logging.DEBUG if verbose else logging.ERROR if quiet else logging.WARNING)
    before = logger.level, logger.propagate
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    # Ray adds a handler to the root logger, so messages would appear twice.
    logger.propagate = False
    logger.addHandler(screen)
    try:
        yield
    finally:
        logger.removeHandler(screen)
        logger.setLevel(before[0])
        logger.propagate = before[1]
