"""Reports in, decisions out: the controller that real trials, packed populations and replays share (layer F3)."""

from raytune_rl.controller.controller import Controller
from raytune_rl.controller.failures import FailurePolicy
from raytune_rl.controller.policies import PBT, Cosine, Fixed, Random
from raytune_rl.controller.policy import Choice, Policy, PolicyRequirements, Situation
from raytune_rl.controller.rollback import Floor
from raytune_rl.controller.schedule import LearningRateSchedule

__all__ = [
    "PBT",
    "Choice",
    "Controller",
    "Cosine",
    "FailurePolicy",
    "Fixed",
    "Floor",
    "LearningRateSchedule",
    "Policy",
    "PolicyRequirements",
    "Random",
    "Situation",
]
