"""Tracks the incumbent, the best report so far, and whether it has reached the target.

The incumbent is the best single report; of equal ones the one with the lower loss, then the earlier one. Rules that
trust a small validation set less (means along the lineage, one standard error, clipped or smoothed losses) were tried,
and none picks better models reliably: see ``experiments/controller/LOG.md``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from raytune_rl.mdp.score import Score, order
from raytune_rl.records import Incumbent, Mode, Report


@dataclass(slots=True)
class IncumbentTracker:
    """The best report so far.

    Attributes:
        metric, mode: what reports are judged by.
        target: the value of the metric at which training may stop; ``None`` = no target.
        incumbent: ``None`` before the first sound report.
    """

    metric: str
    mode: Mode
    target: float | None = None
    incumbent: Incumbent | None = None

    def update(self, report: Report) -> None:
        """Make the report the incumbent if it is sound and better."""
        value = report.metrics.get(self.metric, math.nan)
        if report.status != "ok" or not math.isfinite(value):
            return
        if self.incumbent is None or self._order(report.metrics) < self._order(self.incumbent.metrics):
            self.incumbent = Incumbent(
                member=report.member,
                segment=report.segment,
                value=value,
                metrics=dict(report.metrics),
                hyperparameters=dict(report.hyperparameters),
            )

    @property
    def score(self) -> float | None:
        """The incumbent's score, on the scale of ``mdp.score``."""
        return Score(metric=self.metric, mode=self.mode).of(self.incumbent.value) if self.incumbent else None

    @property
    def target_reached(self) -> str | None:
        """The reason to stop, as a phrase, once the target is reached; ``None`` until then."""
        if self.target is None or self.incumbent is None:
            return None
        if not (self.incumbent.value == self.target or self._beats(self.incumbent.value, self.target)):
            return None
        return f"{self.metric} reached {self.incumbent.value:.6g} (target {self.target:.6g})"

    def _order(self, metrics: Mapping[str, float]) -> tuple[float, float]:
        return order(metrics, metric=self.metric, mode=self.mode)

    def _beats(self, value: float, other: float) -> bool:
        return value < other if self.mode == "min" else value > other
