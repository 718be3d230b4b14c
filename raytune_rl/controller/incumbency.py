"""Who holds the record, and whether it is good enough to stop.

The record is the best single report; of equal ones that with the lower loss, or the first. Rules that trust a small
validation set less (means along the lineage, one standard error, clipped or smoothed losses) were tried, and none picks
better models reliably: see ``experiments/controller/LOG.md``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from raytune_rl.mdp.score import Score, order
from raytune_rl.records import Incumbent, Mode, Report


@dataclass(slots=True)
class Incumbency:
    """The best report so far.

    Attributes:
        metric, mode: what reports are judged by.
        target: the value that is good enough, if any is.
        holder: the incumbent; ``None`` before the first sound report.
    """

    metric: str
    mode: Mode
    target: float | None = None
    holder: Incumbent | None = None

    def take(self, report: Report) -> None:
        """Make the report the incumbent if it is sound and better."""
        value = report.metrics.get(self.metric, math.nan)
        if report.status != "ok" or not math.isfinite(value):
            return
        if self.holder is None or self._order(report.metrics) < self._order(self.holder.metrics):
            self.holder = Incumbent(
                member=report.member,
                segment=report.segment,
                value=value,
                metrics=dict(report.metrics),
                hyperparameters=dict(report.hyperparameters),
            )

    @property
    def score(self) -> float | None:
        """The incumbent's, on the scale of ``mdp.score``."""
        return Score(metric=self.metric, mode=self.mode).of(self.holder.value) if self.holder else None

    @property
    def reached(self) -> str | None:
        """Why everything may stop; ``None`` as long as the target is not reached."""
        if self.target is None or self.holder is None:
            return None
        if not (self.holder.value == self.target or self._beats(self.holder.value, self.target)):
            return None
        return f"{self.metric} reached {self.holder.value:.6g} (target {self.target:.6g})"

    def _order(self, metrics: Mapping[str, float]) -> tuple[float, float]:
        return order(metrics, metric=self.metric, mode=self.mode)

    def _beats(self, value: float, other: float) -> bool:
        return value < other if self.mode == "min" else value > other
