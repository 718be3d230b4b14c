"""The scale on which all metrics are compared: higher is better, and equal ratios are equal improvements.

Losses of different tasks differ by orders of magnitude, and so do the early and the late losses of one task. On a log
scale, halving a loss is worth about 0.7 everywhere. Rewards are differences of scores, so that they telescope.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from raytune_rl.records import Mode

OFFSET: Final = 0.02
"""Added to losses before the logarithm. Losses far below it count as equally good: without it the last digits of a tiny
loss would outweigh everything else."""

PENALTY: Final = -20.0
"""Lowest score; NaN, infinity and losses above 4.8e8 get it. ``-PENALTY`` is the highest."""

TIE_BREAKER: Final = "validation_loss"
"""Metric that decides between equal values of another one. On a small validation split many models have the same
accuracy; of these the one with the lower loss is at least as good."""


def order(metrics: Mapping[str, float], *, metric: str, mode: Mode) -> tuple[float, float]:
    """Sort key of reports, best first: by ``metric``, then by validation loss. Missing or infinite values come last.

    >>> sure, unsure = {"accuracy": 1.0, "validation_loss": 0.1}, {"accuracy": 1.0, "validation_loss": 0.3}
    >>> order(sure, metric="accuracy", mode="max") < order(unsure, metric="accuracy", mode="max")
    True
    """
    value, loss = (metrics.get(name, math.nan) for name in (metric, TIE_BREAKER))
    signed = value if mode == "min" else -value
    return signed if math.isfinite(signed) else math.inf, loss if math.isfinite(loss) else math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Scores the values of ``metric``, whatever its direction.

    >>> round(Score(metric="validation_loss", mode="min").of(0.48), 3)
    0.693
    >>> Score(metric="accuracy", mode="max").of(float("nan"))
    -20.0
    """

    metric: str
    mode: Mode

    def __post_init__(self) -> None:
        if self.mode not in ("min", "max"):
            raise ValueError(f"the mode {self.mode!r} of the metric '{self.metric}' must be 'min' or 'max'")

    def of(self, value: float) -> float:
        """The score of ``value``, in [-20, 20], higher for better values; -20 for NaN and infinity.

        ``min``: -ln(value + 0.02) for values of at least 0. Negative values, which log-likelihoods can have, get
        2 ln 50 + ln(0.02 - value): the same curve mirrored through its point at 0, so that the slope is continuous.
        ``max``: sign(value) ln(1 + |value|).
        """
        if not math.isfinite(value):
            return PENALTY
        if self.mode == "max":
            score = math.copysign(math.log1p(abs(value)), value)
        else:
            score = -math.log(OFFSET) - math.copysign(math.log1p(abs(value) / OFFSET), value)
        return min(max(score, PENALTY), -PENALTY)
