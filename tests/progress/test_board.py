from __future__ import annotations

import math

import pytest

from raytune_rl.progress.board import Board, Plan, Row, action_text, clock_text
from raytune_rl.records import Incumbent, Source
from tests.rundir.steps import decision, report, step


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def plan(**changes: object) -> Plan:
    fields = {
        "name": "digits",
        "members": 2,
        "metric": "loss",
        "mode": "min",
        "directory": "results/digits",
        "hyperparameters": ("lr", "layers"),
        "segments": 10,
    }
    return Plan(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_an_empty_board(clock: Clock) -> None:
    view = Board(plan(), clock).view()
    assert (view.rows, view.segment, view.remaining, view.share, view.rate) == ((), 0, 20, 0.0, 0.0)
    assert view.eta is None and math.isnan(view.median([]))


def test_progress_rate_and_eta(clock: Clock) -> None:
    board = Board(plan(), clock)
    for segment in range(5):
        clock.now += 2.0
        board.update(step(report(0, segment), report(1, segment)))
    view = board.view()
    assert (view.segment, view.remaining, view.share, view.reports) == (5, 10, 0.5, 10)
    assert view.elapsed == 10.0
    assert view.rate == pytest.approx(1.0)
    assert view.eta == pytest.approx(10.0)


def test_the_rate_forgets_what_is_long_past(clock: Clock) -> None:
    board = Board(plan(segments=10_000), clock)
    for segment in range(400):
        clock.now += 0.01 if segment < 200 else 1.0
        board.update(step(report(0, segment)))
    assert board.view().rate == pytest.approx(1.0, rel=0.1)


def test_members_that_stopped_early_have_nothing_left(clock: Clock) -> None:
    board = Board(plan(), clock)
    board.update(step(report(0, 1), stop=True))
    board.update(step(report(1, 3)))
    assert board.view().remaining == 6
    assert board.view().segment == 4


def test_a_resumed_run_begins_where_it_was(clock: Clock) -> None:
    board = Board(plan(done={0: 10, 1: 7}), clock)
    assert (board.view().segment, board.view().remaining) == (7, 3)
    board.update(step(report(1, 7)))
    assert (board.view().segment, board.view().reports) == (8, 18)
    assert Board(plan(done={0: 10, 1: 10}), clock).view().segment == 10


def test_a_budget_in_seconds_ends_the_run_too(clock: Clock) -> None:
    board = Board(plan(segments=None, budget_s=100.0), clock)
    clock.now += 25.0
    view = board.view()
    assert (view.remaining, view.share, view.eta) == (None, 0.25, 75.0)
    assert Board(plan(segments=None), clock).view().share is None


def test_a_resumed_run_starts_where_it_was(clock: Clock) -> None:
    board = Board(plan(done={0: 6, 1: 6}), clock)
    assert board.view().share == pytest.approx(0.6)
    clock.now += 1.0
    board.update(step(report(0, 6)))
    view = board.view()
    assert (view.reports, view.remaining) == (13, 7)
    assert view.rate == pytest.approx(1.0)


def test_what_is_trained_again_after_a_crash_counts_once(clock: Clock) -> None:
    board = Board(plan(done={0: 6, 1: 6}), clock)
    clock.now += 1.0
    board.update(step(report(0, 4)))
    assert (board.view().reports, board.view().rate) == (12, pytest.approx(1.0))


@pytest.mark.parametrize(("mode", "best", "order"), [("min", 0.5, [1, 0, 2]), ("max", 0.9, [0, 1, 2])])
def test_own_best_and_ranking(mode: str, best: float, order: list[int]) -> None:
    board = Board(plan(mode=mode, members=3))
    for value, status in ((0.5, "ok"), (0.9, "ok"), (math.nan, "diverged"), (0.1, "failed"), (0.7, "ok")):
        board.update(step(report(0, 0, value, status=status)))
    board.update(step(report(1, 0, 0.6), report(2, 0, math.nan)))
    view = board.view()
    assert view.rows[0].best == best
    assert [row.report.member for row in view.ranked()] == order
    assert view.median(view.rows) == pytest.approx(0.65)
    assert view.failures == 2


def test_counters() -> None:
    board = Board(plan())
    best = Incumbent(member=0, segment=0, value=0.5, metrics={}, hyperparameters={})
    board.update(step(report(0, 0), policy_version=3))
    board.update(step(report(1, 0, copied_from=0), report(0, 1, copied_from=0), asked=False, incumbent=best))
    view = board.view()
    assert (view.version, view.transitions, view.copies, view.incumbent) == (4, 1, 1, best)


def row_after(*, source: Source, positions: tuple[float, ...] = (0.5, 0.5), status: str = "ok") -> Row:
    board = Board(plan())
    board.update(step(report(0, 3, status=status), source=source, positions=positions))
    return board.view().rows[0]


@pytest.mark.parametrize(
    ("source", "positions", "status", "text"),
    [
        (Source(), (0.5, 0.5), "ok", ""),
        (Source(), (0.6, 0.4), "ok", "lr+ layers- @4"),
        (Source(kind="member", member=1, name="best"), (0.6, 0.5), "ok", "copy of 1 @4"),
        (Source(kind="checkpoint", member=1, name="incumbent"), (0.5, 0.5), "ok", "copy of 1 @4"),
        (Source(kind="checkpoint", member=0, name="own_best"), (0.5, 0.5), "ok", "back to own best @4"),
        (Source(kind="checkpoint", member=0, name="floor"), (0.5, 0.5), "ok", "floor: back to own best @4"),
        (Source(kind="checkpoint", member=0, name="own_best"), (0.5, 0.5), "failed", "restarted @4"),
    ],
)
def test_what_was_done_to_a_member(source: Source, positions: tuple[float, ...], status: str, text: str) -> None:
    assert action_text(row_after(source=source, positions=positions, status=status), plan()) == text


def test_the_last_change_stays_until_the_next() -> None:
    board = Board(plan())
    board.update(step(report(0, 3), positions=(0.9, 0.5)))
    board.update(step(report(0, 4), positions=(0.9, 0.5)))
    assert action_text(board.view().rows[0], plan()) == "lr+ @4"


def test_how_a_member_ends() -> None:
    stop = decision(0, 5, stop=True)
    assert action_text(Row(report=report(0, 4), best=None, decision=stop), plan()) == "stopped"
    assert action_text(Row(report=report(0, 9), best=None, decision=stop), plan()) == "finished"
    assert action_text(Row(report=report(0, 4, done=True), best=None, decision=stop), plan()) == "finished"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.6, "1:00"), (245, "4:05"), (3723, "1:02:03"), (None, "--:--"), (math.inf, "--:--")],
)
def test_clock_text(seconds: float | None, text: str) -> None:
    assert clock_text(seconds) == text
