from __future__ import annotations

import io
import threading
import time

import pytest
from rich.console import Console

from raytune_rl.progress.board import Plan
from raytune_rl.progress.displays import LineProgress, Progress, QuietProgress, TerminalProgress, make_progress
from tests.progress.test_screens import SUMMARY
from tests.rundir.steps import report, step

PLAN = Plan(name="digits", members=2, metric="loss", mode="min", directory="results/digits", segments=100)


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=80, height=24, _environ={"TERM": "xterm"})


def pipe() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=80)


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_display_suits_the_output() -> None:
    assert type(make_progress(console=terminal())) is TerminalProgress
    assert type(make_progress(console=pipe())) is LineProgress
    assert type(make_progress(console=terminal(), quiet=True)) is QuietProgress
    dumb = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "dumb"})
    assert type(make_progress(console=dumb)) is LineProgress


@pytest.mark.parametrize("kind", ["terminal", "lines", "quiet"])
def test_every_display_takes_the_same_calls(kind: str) -> None:
    console = terminal() if kind == "terminal" else pipe()
    display: Progress = make_progress(quiet=kind == "quiet", console=console)
    before = set(threading.enumerate())
    with display:
        display.start(PLAN)
        display.note("resumed [red]")
        for segment in range(100):
            display.update(step(report(0, segment), report(1, segment), stop=segment == 99))
        display.finish({**SUMMARY, "best": None})
    display.close()
    deadline = time.monotonic() + 10
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not set(threading.enumerate()) - before
    assert "no member reached a valid loss" in text(console)
    assert ("resumed [red]" in text(console)) == (kind != "quiet")


def test_quiet_prints_the_summary_only() -> None:
    console = pipe()
    display = make_progress(quiet=True, console=console)
    display.start(PLAN)
    display.update(step(report(0, 0)))
    display.note("something")
    assert text(console) == ""


def test_a_finished_run_is_shown_without_any_step() -> None:
    console = pipe()
    display = make_progress(quiet=True, console=console)
    display.start(PLAN)
    display.finish({**SUMMARY, "best": None})
    assert "Counts" in text(console)


def test_lines_come_per_generation_or_every_few_seconds() -> None:
    now = 0.0
    console = pipe()
    display = LineProgress(console, clock=lambda: now)
    display.start(PLAN)
    # A fast run: two generations per second, a line per second.
    for half in range(20):
        now = half / 2
        display.update(step(report(0, half), report(1, half)))
    found = [line for line in text(console).splitlines() if line.startswith("progress ")]
    assert len(found) == 9
    # A slow one: no generation is completed, yet every five seconds there is a sign of life.
    for second in range(10, 40):
        now = float(second)
        display.update(step(report(0, second + 20)))
    found = [line for line in text(console).splitlines() if line.startswith("progress ")]
    assert 9 + 5 <= len(found) <= 9 + 7


def test_lines_are_not_wrapped_or_coloured() -> None:
    console = pipe()
    display = LineProgress(console)
    display.start(PLAN)
    display.note("x" * 200)
    assert "x" * 200 in text(console) and "\x1b" not in text(console)


def test_an_interrupted_run_gives_the_terminal_back() -> None:
    console = terminal()
    with pytest.raises(KeyboardInterrupt), make_progress(console=console) as display:
        display.start(PLAN)
        raise KeyboardInterrupt
    assert text(console).endswith("\x1b[?25h") or "\x1b[?25h" in text(console).rsplit("\x1b[?25l")[-1]


def test_telling_the_terminal_is_cheap() -> None:
    """The driver decides in the same thread: well under a millisecond per report, whatever is drawn."""
    console = terminal()
    with make_progress(console=console) as display:
        display.start(PLAN)
        steps = [step(report(member, segment)) for segment in range(20) for member in range(64)]
        before = time.thread_time()
        for each in steps:
            display.update(each)
        spent = time.thread_time() - before
    assert spent / len(steps) < 1e-3
