"""What a person sees of a run while it goes on, and at its end.

The driver makes decisions in the same process, so telling the display of a step only stores references; all drawing
happens in the display's own time.
"""

from raytune_rl.progress.board import Plan
from raytune_rl.progress.displays import Progress, make_progress
from raytune_rl.progress.logs import logging_to

__all__ = ["Plan", "Progress", "logging_to", "make_progress"]
