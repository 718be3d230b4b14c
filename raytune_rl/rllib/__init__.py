"""The learning side: RLlib algorithms behind the controller's ``Policy`` protocol.

``Agent`` holds the settings (and imports no Ray). ``LearningPolicy`` acts with a local copy of the network and sends
experience to an ``AgentCore``, which owns the RLlib Algorithm, in an actor of its own or in this process.
"""

from raytune_rl.rllib.policy import LearningPolicy
from raytune_rl.rllib.settings import Agent

__all__ = ["Agent", "LearningPolicy"]
