"""The watchdog bites when work takes too long, and only then."""

from __future__ import annotations

import threading

from raytune_rl.tune.hosts.watchdog import EXIT_CODE, Watchdog


def test_it_leaves_a_note_and_ends_the_process() -> None:
    ended, calls = threading.Event(), []
    watchdog = Watchdog(0.05, exit=lambda code: (calls.append(code), ended.set()))
    with watchdog.watching(lambda: calls.append("note")):
        assert ended.wait(10.0)
    assert calls == ["note", EXIT_CODE]


def test_it_ends_the_process_even_if_the_note_fails() -> None:
    ended = threading.Event()

    def fail() -> None:
        raise OSError("disk full")

    watchdog = Watchdog(0.05, exit=lambda code: ended.set())
    with watchdog.watching(fail):
        assert ended.wait(10.0)


def test_many_short_pieces_of_work_are_left_alone() -> None:
    ended, waited = threading.Event(), threading.Event()
    watchdog = Watchdog(0.2, exit=lambda code: ended.set())
    for _ in range(10):
        with watchdog.watching(lambda: None):
            waited.wait(0.05)
    waited.wait(0.4)  # idle between segments is no hang
    watchdog.close()
    assert not ended.is_set()


def test_without_a_limit_there_is_no_thread() -> None:
    before = threading.active_count()
    with Watchdog(None).watching(lambda: None), Watchdog(float("inf")).watching(lambda: None):
        assert threading.active_count() == before
