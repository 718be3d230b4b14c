from __future__ import annotations

import math

import pytest

from raytune_rl.texts import count, duration, gap, number


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (math.nan, "-"),
        (math.inf, "infinite"),
        (0.0, "0"),
        (0.10931, "0.1093"),
        (0.00032, "3.2e-4"),
        (1e-12, "1e-12"),
        (123456.0, "1.2e5"),
        (-0.5, "-0.5"),
        (12, "12"),
        (256_000, "256,000"),
        (True, "True"),
        ("relu", "relu"),
    ],
)
def test_numbers_are_short(value: object, text: str) -> None:
    assert number(value) == text


def test_durations_have_units() -> None:
    assert [duration(s) for s in (0.0312, 12.71, 200.0, 7500.0, None, math.inf)] == [
        "0.031 s", "12.7 s", "3 min 20 s", "2 h 5 min", "-", "-"
    ]  # fmt: skip


def test_counts_know_one_from_many() -> None:
    assert (count(1, "copies", "copy"), count(2, "copies", "copy"), count(1, "segments")) == (
        "1 copy", "2 copies", "1 segment"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("ours", "theirs", "mode", "text"),
    [
        (0.1, 0.2, "min", "50% better (lower)"),
        (0.2, 0.1, "min", "100% worse (higher)"),
        (0.98, 0.95, "max", "3.2% better (higher)"),
        (0.9, 0.95, "max", "5.3% worse (lower)"),
        (-1.0, 2.0, "min", "3 better (lower)"),
        (30.0, 1.0, "min", "30 times worse (higher)"),
    ],
)
def test_a_gap_says_how_far_and_whether_that_is_good(ours: float, theirs: float, mode: str, text: str) -> None:
    assert gap(ours, theirs, mode) == text  # type: ignore[arg-type]
