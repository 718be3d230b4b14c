"""Segments that a function has finished without a checkpoint, where it can be neither interrupted nor changed.

If a checkpoint comes later, everything up to it is one long segment. If none comes, each of them counts. So the results
at which segments would have ended are kept until that is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PATIENCE = 10
"""Segments without a checkpoint after which nobody waits for one any more."""


class UnsavedSegments:
    """The unsaved segments of one experiment's functions.

    Attributes:
        given_up: nobody waits for checkpoints any more.
    """

    def __init__(self) -> None:
        self.given_up = False
        self._results: dict[int, list[Mapping[str, Any]]] = {}
        self._ends: dict[int, int] = {}

    def end(self, member: int) -> int:
        """The report count at which the member's newest unsaved segment ended; -1 if there is none."""
        return self._ends.get(member, -1)

    def add(self, member: int, at: int, result: Mapping[str, Any], *, left: int | None) -> bool:
        """A segment has ended after ``at`` reports. Returns whether to give up waiting for a checkpoint.

        Args:
            left: segments that are left of the member's budget, if it has one and the member has never saved.
        """
        results = self._results.setdefault(member, [])
        results.append(result)
        self._ends[member] = at
        self.given_up = self.given_up or len(results) >= (PATIENCE if left is None else min(PATIENCE, left))
        return self.given_up

    def take(self, member: int) -> list[Mapping[str, Any]]:
        """The results so far, oldest first, which are then forgotten."""
        self._ends.pop(member, None)
        return self._results.pop(member, [])
