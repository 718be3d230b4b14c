"""Learning-rate schedules that lie over what a policy chooses, so that doing nothing is a good schedule already."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

Schedule: TypeAlias = Literal["constant", "cosine", "late_cosine"]

COSINE_FLOOR = 0.01
"""A cosine schedule ends at this share of its base value, not at zero: the last segment still trains."""


HELD = 0.6
"""The share of the run that ``late_cosine`` leaves as it is."""


def schedule_factor(schedule: Schedule, segment: int, segments: int | None) -> float:
    """The factor on learning rates in ``segment``, taken in the segment's middle: 1; a half cosine over the run; or 1
    and a half cosine over the last part of the run (a warm rate is kept as long as there is much to explore, as in
    the schedules of Hu et al. 2024, section 4.1).

    >>> round(schedule_factor("cosine", 0, 20), 3), round(schedule_factor("cosine", 19, 20), 3)
    (0.998, 0.01)
    >>> schedule_factor("late_cosine", 11, 20), round(schedule_factor("late_cosine", 15, 20), 3)
    (1.0, 0.598)
    """
    if schedule == "constant" or not segments:
        return 1.0
    progress = min(1.0, (segment + 0.5) / segments)
    if schedule == "late_cosine":
        progress = max(0.0, (progress - HELD) / (1.0 - HELD))
    return max(COSINE_FLOOR, 0.5 * (1.0 + math.cos(math.pi * progress)))


def refit_segments(segments: int) -> int:
    """How many segments at the end of a run (of at least 2) are a refit's: those in which ``late_cosine`` decays, whose
    place it takes.

    >>> refit_segments(20), refit_segments(2)
    (8, 1)
    """
    return min(segments - 1, max(1, round((1.0 - HELD) * segments)))
