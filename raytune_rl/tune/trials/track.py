"""Which segment a trial is in, and how each of its segments began.

Tune counts a trial's reports (``training_iteration``), and the controller counts segments. The two are not in step: a
function can be interrupted only where it reports a checkpoint, and a trial that died continues from an older one. A
track keeps the report count at which each segment was opened. So segments are consecutive, a crash leads back to the
segment that the checkpoint lies in, and the values that were in force there are known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from raytune_rl.records import Value

HISTORY = 512
"""Openings kept per trial; a trial never goes back further than its last checkpoint."""
CHECKPOINTS = 8
"""Checkpoints remembered per trial."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """How one segment began.

    Attributes:
        at: reports that the member had made.
        seconds: training time that it had spent.
        values: its hyperparameters.
        decision: the segment whose decision they come from (an older one if a decision could not be carried out).
        copied_from, copied_segment: the member whose weights it began with, and the segment that they are from.
    """

    at: int
    seconds: float
    values: Mapping[str, Value]
    decision: int
    copied_from: int | None = None
    copied_segment: int | None = None


@dataclass(slots=True)
class Track:
    """One trial's segments: ``openings[i]`` opened segment ``first + i``.

    >>> track = Track.start({"lr": 0.1})
    >>> track.open(at=5, seconds=1.0, values={"lr": 0.2})
    >>> track.segment, track.newest.at
    (1, 5)
    >>> track.rewind(4)
    >>> track.segment, track.newest.values
    (0, {'lr': 0.1})
    """

    openings: list[Opening]
    first: int = 0
    offset: int = 0
    """Reports made before the member last started from nothing, which reset Tune's count to zero."""
    reported: int = -1
    """The report count of the newest report that the controller has seen."""
    saved: dict[str, tuple[int, float]] = field(default_factory=dict)
    """The newest checkpoints: Tune's counts of reports and seconds, by the name of their folder."""

    @classmethod
    def start(cls, values: Mapping[str, Value], *, at: int = 0) -> Track:
        return cls(openings=[Opening(at=at, seconds=0.0, values=dict(values), decision=0)])

    @property
    def newest(self) -> Opening:
        return self.openings[-1]

    @property
    def segment(self) -> int:
        """The index of the newest segment."""
        return self.first + len(self.openings) - 1

    def open(self, *, at: int, seconds: float, values: Mapping[str, Value] | None) -> None:
        """Open the next segment with newly decided values; ``None`` = those of the one before."""
        before = self.newest
        opening = Opening(
            at=at,
            seconds=seconds,
            values=before.values if values is None else dict(values),
            decision=before.decision if values is None else self.segment + 1,
        )
        self.openings.append(opening)
        surplus = len(self.openings) - HISTORY
        if surplus > 0:
            del self.openings[:surplus]
            self.first += surplus

    def skip(self, segments: int, *, at: int, seconds: float, values: Mapping[str, Value]) -> None:
        """The member has finished ``segments`` segments of which nothing is known; forget everything before ``at``."""
        self.first = self.segment + segments
        self.openings = [Opening(at=at, seconds=seconds, values=dict(values), decision=self.first)]

    def note_saved(self, name: str, iteration: int, seconds: float) -> None:
        """Remember a checkpoint, because Tune's snapshot may know only older ones."""
        self.saved.pop(name, None)
        self.saved[name] = (iteration, seconds)
        while len(self.saved) > CHECKPOINTS:
            del self.saved[next(iter(self.saved))]

    def begin_anew(self, at: int) -> None:
        """The member starts from nothing: Tune's count is zero again, and earlier checkpoints are of no use."""
        self.offset = at
        self.saved.clear()

    def segment_at(self, at: int) -> int:
        """The segment that was open after ``at`` reports."""
        return self.first + max((i for i, opening in enumerate(self.openings) if opening.at <= at), default=0)

    def amend(self, **changes: Any) -> None:
        """Correct how the newest segment began."""
        self.openings[-1] = replace(self.newest, **changes)

    def take_back(self) -> None:
        """The newest segment's decision was not carried out after all: it began like the segment before."""
        if len(self.openings) > 1:
            before = self.openings[-2]
            self.amend(values=before.values, decision=before.decision, copied_from=None, copied_segment=None)

    def rewind(self, at: int) -> None:
        """The member continues from its state after ``at`` reports."""
        while len(self.openings) > 1 and self.newest.at > at:
            self.openings.pop()
        self.reported = min(self.reported, at)

    def to_dict(self) -> dict[str, Any]:
        return {
            "openings": [asdict(opening) for opening in self.openings],
            "first": self.first,
            "offset": self.offset,
            "reported": self.reported,
            "saved": dict(self.saved),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Track:
        return cls(
            openings=[Opening(**opening) for opening in data["openings"]],
            first=data["first"],
            offset=data["offset"],
            reported=data["reported"],
            saved={name: tuple(when) for name, when in data["saved"].items()},
        )
