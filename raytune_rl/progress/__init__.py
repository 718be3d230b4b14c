"""What users see of a run while it is in progress, and at its end.

The driver makes decisions in the same process, so updating the display only stores references; drawing happens in a
thread of the display, or at most once per second.
"""

from raytune_rl.progress.board import Plan
from raytune_rl.progress.displays import Progress, make_progress
from raytune_rl.progress.logs import logging_to

__all__ = ["Plan", "Progress", "logging_to", "make_progress"]
