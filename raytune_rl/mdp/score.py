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
"""Below about this value a loss counts as solved: without it the last digits of a tiny loss would outweigh all else."""

PENALTY: Final = -20.0
"""The score of NaN and infinity, and the lowest of all (``-PENALTY`` is the highest). A loss of 4.8e8 comes there."""


TIE_BREAKER: Final = "validation_loss"
"""Decides between equal values of another metric: few rows give an accuracy few values, and of models that are all
right the one that is surest of it by the loss is no worse."""


def order(metrics: Mapping[str, float], *, metric: str, mode: Mode) -> tuple[float, float]:
    """What reports are sorted by, the best first: their ``metric``, then their loss. What is missing or not finite is
    last.

    >>> sure, unsure = {"accuracy": 1.0, "validation_loss": 0.1}, {"accuracy": 1.0, "validation_loss": 0.3}
    >>> order(sure, metric="accuracy", mode="max") < order(unsure, metric="accuracy", mode="max")
    True
    """
    value, loss = (metrics.get(name, math.nan) for name in (metric, TIE_BREAKER))
    signed = value if mode == "min" else -value
    return signed if math.isfinite(signed) else math.inf, loss if math.isfinite(loss) else math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How good a value of ``metric`` is, whatever its direction.

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
        """The score of ``value``, in [-20, 20], never falling as the metric gets better; NaN and infinity -20.

        ``min``: -ln(value + 0.02) for losses; below zero the curve is mirrored through its point at zero (so it goes
        on with the same slope): 2 ln 50 + ln(0.02 - value), which fits likelihoods that fall below zero.
        ``max``: sign(value) ln(1 + |value|).
        """
        if not math.isfinite(value):
            return PENALTY
        if self.mode == "max":
            score = math.copysign(math.log1p(abs(value)), value)
        else:
            score = -math.log(OFFSET) - math.copysign(math.log1p(abs(value) / OFFSET), value)
        return min(max(score, PENALTY), -PENALTY)
