"""Reading results: runs as pandas tables, compared with each other, as plots, and as an HTML page.

>>> from raytune_rl.analysis import Run, compare
>>> run = Run.load("results/quickstart/2026-11-24_12-00-00")  # doctest: +SKIP
>>> run.segments, run.decisions, run.members, run.lineage  # doctest: +SKIP
>>> compare([run, Run.load("results/other")])  # doctest: +SKIP
>>> from raytune_rl.analysis import plots  # imports matplotlib, which nothing above does
>>> plots.anytime(run)  # doctest: +SKIP
"""

from raytune_rl.analysis.compare import compare
from raytune_rl.analysis.influence import saw_and_did
from raytune_rl.analysis.run import Run
from raytune_rl.analysis.schedule import Leg, Schedule

__all__ = ["Leg", "Run", "Schedule", "compare", "saw_and_did"]
