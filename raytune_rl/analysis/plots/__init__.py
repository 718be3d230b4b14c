"""Plots of runs (matplotlib). Each takes a ``Run``, and axes to draw into if you like, and returns the ``Figure``.

In a notebook, ``%matplotlib inline`` shows the figure that a cell ends with; elsewhere ``figure.savefig("x.png")``.
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
