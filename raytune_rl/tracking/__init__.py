"""Experiment tracking: members of the population as runs in TensorBoard, MLflow, Weights & Biases.

Ray's logger callbacks do the logging. They do not see Tune's trials, which have several members each, but one trial per
member, with results as from Tune. They run in a process of their own with a low priority: some take milliseconds per
value, some wait for a server, and neither may delay a decision.
"""

from raytune_rl.tracking.checks import check_callbacks, missing_library
from raytune_rl.tracking.tracker import Tracker

__all__ = ["Tracker", "check_callbacks", "missing_library"]
