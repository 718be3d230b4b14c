"""Segments that a function has finished without a checkpoint, where it can be neither interrupted nor changed.

If a checkpoint comes later, all that was trained up to it is one long segment. If none comes, each of them counts. So
the results at which segments would be over are kept until that is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PATIENCE = 10
"""Segments without a checkpoint after which none is waited for any more."""


class Unsaved:
    """What is not known yet about the functions of one experiment.

    Attributes:
        known: whether it is known that there are no checkpoints to wait for.
    """

    def __init__(self) -> None:
        self.known = False
        self._results: dict[int, list[Mapping[str, Any]]] = {}
        self._ends: dict[int, int] = {}

    def end(self, member: int) -> int:
        """The report count at which the member's newest such segment was over; -1 if there is none."""
        return self._ends.get(member, -1)

    def add(self, member: int, at: int, result: Mapping[str, Any], *, left: int | None) -> bool:
        """A segment is over after ``at`` reports; whether there are now enough to give up waiting.

        Args:
            left: segments that the member's budget has left, if it has one and has never saved.
        """
        results = self._results.setdefault(member, [])
        results.append(result)
        self._ends[member] = at
        self.known = self.known or len(results) >= (PATIENCE if left is None else min(PATIENCE, left))
        return self.known

    def take(self, member: int) -> list[Mapping[str, Any]]:
        """The results so far, oldest first. They are then forgotten."""
        self._ends.pop(member, None)
        return self._results.pop(member, [])
