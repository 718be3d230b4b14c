"""Learning-rate schedules, which multiply what a policy chooses: a policy that changes nothing follows a good one."""

from __future__ import annotations

import math
from typing import Final, Literal, TypeAlias

LearningRateSchedule: TypeAlias = Literal["constant", "cosine", "late_cosine"]

COSINE_FLOOR: Final = 0.01
"""A cosine schedule ends at this share of its base value, not at zero: the last segment still trains."""

CONSTANT_SHARE: Final = 0.6
"""The share of the run in which ``late_cosine`` is constant; it decays after that."""


def schedule_factor(schedule: LearningRateSchedule, segment: int, segments: int | None) -> float:
    """The factor on learning rates in ``segment`` (from 0), evaluated at the middle of the segment.

    ``constant``: 1. ``cosine``: half a cosine over the run. ``late_cosine``: 1, then half a cosine over the last part
    of the run, so that the learning rate stays high as long as there is much to explore (as in the schedules of Hu et
    al. 2024, section 4.1). Always 1 where ``segments``, the length of the run, is unknown.

    >>> round(schedule_factor("cosine", 0, 20), 3), round(schedule_factor("cosine", 19, 20), 3)
    (0.998, 0.01)
    >>> schedule_factor("late_cosine", 11, 20), round(schedule_factor("late_cosine", 15, 20), 3)
    (1.0, 0.598)
    """
    if schedule == "constant" or not segments:
        return 1.0
    progress = min(1.0, (segment + 0.5) / segments)
    if schedule == "late_cosine":
        progress = max(0.0, (progress - CONSTANT_SHARE) / (1.0 - CONSTANT_SHARE))
    return max(COSINE_FLOOR, 0.5 * (1.0 + math.cos(math.pi * progress)))


def refit_segments(segments: int) -> int:
    """How many segments at the end of a run (of at least 2) a refit takes: those in which ``late_cosine`` would decay.

    >>> refit_segments(20), refit_segments(2)
    (8, 1)
    """
    return min(segments - 1, max(1, round((1.0 - CONSTANT_SHARE) * segments)))
