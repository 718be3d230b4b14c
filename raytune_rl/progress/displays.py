"""The displays of a run: a live screen on a terminal, plain lines in a log, only the summary with ``--quiet``."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console, RenderableType
from rich.live import Live

from raytune_rl.progress.board import Board, Plan
from raytune_rl.progress.screens import final_screen, live_screen, progress_line
from raytune_rl.records import Step

REFRESH_PER_SECOND = 4
LINE_EVERY_S = 5.0
GENERATION_EVERY_S = 1.0
"""Plain lines: one every ``LINE_EVERY_S``, or when a generation is complete and the last line is older than this."""


class Progress(Protocol):
    """Displays a run. A context manager, which restores the terminal even if it is left without ``finish`` (Ctrl-C)."""

    def start(self, plan: Plan) -> None:
        """The run begins."""
        ...

    def update(self, step: Step) -> None:
        """Members have reported. Returns within a fraction of a millisecond."""
        ...

    def note(self, text: str) -> None:
        """Show a line that stays on the screen."""
        ...

    def finish(self, summary: Mapping[str, Any]) -> None:
        """The run is over; ``summary`` is the content of ``summary.json``."""
        ...

    def close(self) -> None:
        """Close the display; no effect if it is closed already."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def make_progress(*, quiet: bool = False, console: Console | None = None) -> Progress:
    """The display that suits the output: ``console``, by default the standard output."""
    console = console or Console(highlight=False)
    if quiet:
        return QuietProgress(console)
    if console.is_terminal and not console.is_dumb_terminal:
        return TerminalProgress(console)
    return LineProgress(console)


class QuietProgress:
    """Shows only the summary at the end. Base class of the other displays."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._plan: Plan | None = None

    def start(self, plan: Plan) -> None:
        self._plan = plan

    def update(self, step: Step) -> None: ...

    def note(self, text: str) -> None: ...

    def finish(self, summary: Mapping[str, Any]) -> None:
        self.close()
        assert self._plan is not None, "start comes first"
        self._console.print(final_screen(self._plan, summary))

    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class LineProgress(QuietProgress):
    """Plain lines for logs and CI, rare enough to be read."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(console)
        self._clock = clock
        self._board: Board | None = None
        self._printed = (0.0, 0)

    def start(self, plan: Plan) -> None:
        super().start(plan)
        self._board = Board(plan, clock=self._clock)
        self._printed = (self._clock(), 0)
        self._line(f"start {plan.name}: {plan.members} members, run directory {plan.directory}")

    def update(self, step: Step) -> None:
        assert self._board is not None, "start comes first"
        self._board.update(step)
        age = self._clock() - self._printed[0]
        # making a view for every report would cost more than the report itself
        if age < GENERATION_EVERY_S:
            return
        view = self._board.view()
        if age >= LINE_EVERY_S or view.segment > self._printed[1]:
            self._printed = (self._clock(), view.segment)
            self._line(progress_line(view))

    def note(self, text: str) -> None:
        self._line(text)

    def finish(self, summary: Mapping[str, Any]) -> None:
        assert self._board is not None, "start comes first"
        view = self._board.view()
        if view.rows:  # empty if earlier sessions have trained everything
            self._line(progress_line(view))
        super().finish(summary)

    def _line(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, markup=False, highlight=False)


class TerminalProgress(QuietProgress):
    """The live screen. A separate thread draws it a few times per second; ``update`` never does."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._board: Board | None = None
        self._live: Live | None = None

    def start(self, plan: Plan) -> None:
        super().start(plan)
        self._board = Board(plan)
        self._live = Live(
            get_renderable=self._draw, console=self._console, refresh_per_second=REFRESH_PER_SECOND, transient=True
        )
        self._live.start()

    def update(self, step: Step) -> None:
        assert self._board is not None, "start comes first"
        self._board.update(step)

    def note(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _draw(self) -> RenderableType:
        assert self._board is not None
        return live_screen(self._board.view(), *self._console.size)
