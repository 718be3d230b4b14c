"""A report in, a decision out: the one brain that real trials, packed populations and replays share (floor F3)."""

from raytune_rl.controller.controller import Controller
from raytune_rl.controller.failures import FailurePolicy
from raytune_rl.controller.floor import Floor
from raytune_rl.controller.policies import PBT, Cosine, Fixed, Random
from raytune_rl.controller.policy import Choice, Policy, Situation
from raytune_rl.controller.schedule import Schedule

__all__ = [
    "PBT",
    "Choice",
    "Controller",
    "Cosine",
    "FailurePolicy",
    "Fixed",
    "Floor",
    "Policy",
    "Random",
    "Schedule",
    "Situation",
]
