"""Formats numbers and times, in the same way for sentences, tables and axes."""

from __future__ import annotations

import math
from typing import Any

from raytune_rl.records import Mode


def number(value: Any) -> str:
    """A value as text, of at most seven characters if possible: ``3.2e-4``, ``0.08123``, ``128``, ``relu``; a dash for
    missing values."""
    if value is None:
        return "-"
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if math.isnan(value):
        return "-"
    if math.isinf(value):
        return "infinite" if value > 0 else "-infinite"
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        text = f"{value:.4g}"
        return text if len(text) <= 7 else f"{value:.3g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def duration(seconds: float | None) -> str:
    """``0.42 s``, ``12.7 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    if seconds < 100:
        return f"{seconds:.2g} s" if seconds < 1 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


def count(amount: int, plural: str, singular: str | None = None) -> str:
    """``1 copy``, ``18 copies``, ``256,000 segments``."""
    word = (singular or plural.removesuffix("s")) if amount == 1 else plural
    return f"{amount:,} {word}"


def gap(ours: float, theirs: float, mode: Mode) -> str:
    """The distance of ``ours`` from ``theirs``, and whether it is for the better: ``43% better (lower)``. It is in
    percent if both are positive, else in the metric's own units."""
    better = ours < theirs if mode == "min" else ours > theirs
    words = f"{'better' if better else 'worse'} ({'lower' if ours < theirs else 'higher'})"
    if ours <= 0 or theirs <= 0:
        return f"{number(abs(ours - theirs))} {words}"
    share = abs(ours - theirs) / theirs
    if share >= 10:
        return f"{max(ours, theirs) / min(ours, theirs):.3g} times {words}"
    return f"{share:.0%} {words}" if share >= 0.1 else f"{100 * share:.2g}% {words}"
