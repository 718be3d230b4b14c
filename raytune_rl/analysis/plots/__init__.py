"""Plots of runs (matplotlib). Each takes a ``Run``, optionally axes to draw into, and returns the ``Figure``.

In a notebook with ``%matplotlib inline``, a figure is shown if it is a cell's last expression; elsewhere use
``figure.savefig("x.png")``.
"""

from raytune_rl.analysis.plots.anytime import anytime
from raytune_rl.analysis.plots.decisions import influences, strongest
from raytune_rl.analysis.plots.lineage import founders, gains, lineage
from raytune_rl.analysis.plots.schedules import best_schedules, schedule, schedules
from raytune_rl.analysis.plots.time import segment_seconds, time

__all__ = [
    "anytime",
    "best_schedules",
    "founders",
    "gains",
    "influences",
    "lineage",
    "schedule",
    "schedules",
    "segment_seconds",
    "strongest",
    "time",
]
