"""Experiment tracking: members of the population as runs in TensorBoard, MLflow, Weights & Biases.

Ray's own logger callbacks do the logging. What they are shown is not Tune's trials, which host several members each,
but one trial per member, with results as Tune would give them. They work in a process of their own with a low
priority: some take milliseconds per value, some wait for a server, and neither may hold up a decision.
"""

from raytune_rl.tracking.checks import check_callbacks, missing_library
from raytune_rl.tracking.tracker import Tracker

__all__ = ["Tracker", "check_callbacks", "missing_library"]
