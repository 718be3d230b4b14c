"""Learning-rate schedules that lie over what a policy chooses, so that doing nothing is a good schedule already."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

Schedule: TypeAlias = Literal["constant", "cosine"]

COSINE_FLOOR = 0.01
"""A cosine schedule ends at this share of its base value, not at zero: the last segment still trains."""


def schedule_factor(schedule: Schedule, segment: int, segments: int | None) -> float:
    """The factor on learning rates in ``segment``: 1, or a half cosine over the run, taken in the segment's middle.

    >>> round(schedule_factor("cosine", 0, 20), 3), round(schedule_factor("cosine", 19, 20), 3)
    (0.998, 0.01)
    """
    if schedule == "constant" or not segments:
        return 1.0
    return max(COSINE_FLOOR, 0.5 * (1.0 + math.cos(math.pi * min(1.0, (segment + 0.5) / segments))))
