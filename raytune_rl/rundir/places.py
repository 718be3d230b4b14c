"""Where each (member, segment) stands: the memory of a table that never writes a row twice.

A member's segments come in order, so the rows of one part are a few runs of consecutive segments. Keeping the runs
instead of the rows holds 10,000 segments of 64 members in a few hundred kilobytes.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Runs:
    """Runs of consecutive segments of one member, disjoint and ascending; run ``i`` stands in part ``parts[i]``."""

    firsts: list[int] = field(default_factory=list)
    lasts: list[int] = field(default_factory=list)
    parts: list[int] = field(default_factory=list)


class Places:
    """A map from (member, segment) to the number of the part that holds the row."""

    def __init__(self) -> None:
        self._members: dict[int, _Runs] = {}

    def find(self, member: int, segment: int) -> int | None:
        """The part that holds the row, or None."""
        runs = self._members.get(member)
        if runs is None:
            return None
        at = bisect_right(runs.firsts, segment) - 1
        return runs.parts[at] if at >= 0 and segment <= runs.lasts[at] else None

    def add(self, member: int, segment: int, part: int) -> bool:
        """Note a row. False if it is known already, then nothing changes."""
        runs = self._members.setdefault(member, _Runs())
        at = bisect_right(runs.firsts, segment)
        if at and segment <= runs.lasts[at - 1]:
            return False
        if at and runs.parts[at - 1] == part and runs.lasts[at - 1] == segment - 1:
            runs.lasts[at - 1] = segment
        else:
            runs.firsts.insert(at, segment)
            runs.lasts.insert(at, segment)
            runs.parts.insert(at, part)
        return True

    def __len__(self) -> int:
        """How many runs are kept, of all members."""
        return sum(len(runs.firsts) for runs in self._members.values())
