"""How long a checkpoint is waited for."""

from __future__ import annotations

from raytune_rl.tune.trials.unsaved import PATIENCE, UnsavedSegments


def test_results_wait_until_patience_is_over() -> None:
    unsaved = UnsavedSegments()
    given = [unsaved.add(0, at, {"n": at}, left=None) for at in range(1, PATIENCE + 1)]
    assert given == [False] * (PATIENCE - 1) + [True]
    assert unsaved.end(0) == PATIENCE
    assert [result["n"] for result in unsaved.take(0)] == list(range(1, PATIENCE + 1))
    assert (unsaved.take(0), unsaved.end(0)) == ([], -1)


def test_nobody_waits_beyond_the_budget() -> None:
    unsaved = UnsavedSegments()
    assert [unsaved.add(0, at, {}, left=3) for at in (1, 2, 3)] == [False, False, True]


def test_what_is_known_of_one_member_is_known_of_all() -> None:
    unsaved = UnsavedSegments()
    assert unsaved.add(0, 1, {}, left=1)
    assert unsaved.add(1, 1, {}, left=50)
