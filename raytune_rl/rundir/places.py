"""Which part of a table holds each (member, segment), so that a row is never stored twice.

A member's segments come in order, so its rows in one part are a few stretches of consecutive segments. Storing the
stretches instead of the rows takes a few hundred kilobytes for 10,000 segments of 64 members.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Stretches:
    """Stretches of consecutive segments of one member, disjoint and ascending: stretch ``i`` goes from ``firsts[i]`` to
    ``lasts[i]``, and its rows are in part ``parts[i]``."""

    firsts: list[int] = field(default_factory=list)
    lasts: list[int] = field(default_factory=list)
    parts: list[int] = field(default_factory=list)


class Places:
    """A map from (member, segment) to the number of the part that holds the row."""

    def __init__(self) -> None:
        self._members: dict[int, _Stretches] = {}

    def find(self, member: int, segment: int) -> int | None:
        """The part that holds the row, or None."""
        stretches = self._members.get(member)
        if stretches is None:
            return None
        index = bisect_right(stretches.firsts, segment) - 1
        return stretches.parts[index] if index >= 0 and segment <= stretches.lasts[index] else None

    def add(self, member: int, segment: int, part: int) -> bool:
        """Add a row. Returns False, and changes nothing, if it is there already."""
        stretches = self._members.setdefault(member, _Stretches())
        index = bisect_right(stretches.firsts, segment)
        if index and segment <= stretches.lasts[index - 1]:
            return False
        if index and stretches.parts[index - 1] == part and stretches.lasts[index - 1] == segment - 1:
            stretches.lasts[index - 1] = segment
        else:
            stretches.firsts.insert(index, segment)
            stretches.lasts.insert(index, segment)
            stretches.parts.insert(index, part)
        return True

    def __len__(self) -> int:
        """The number of stretches, over all members."""
        return sum(len(stretches.firsts) for stretches in self._members.values())
