"""The Markov decision process as pure functions: observations, actions and rewards for any search space and population.

``state`` summarises a member's past, ``observation`` and ``action`` define the spaces, ``reward`` the rewards, and
``episode`` collects transitions; ``python -m raytune_rl.mdp`` prints the table of observation features and actions. No
Ray, no torch, no I/O, no randomness.
"""

from raytune_rl.mdp.action import SOURCES, ActionSpec, Head, Move
from raytune_rl.mdp.ensemble_stats import EnsembleStats
from raytune_rl.mdp.episode import EpisodeBuffer
from raytune_rl.mdp.features import table
from raytune_rl.mdp.observation import ObservationSpec
from raytune_rl.mdp.reward import Reward, RewardContext, cost_aware, difference, final, improvement, mixed, team
from raytune_rl.mdp.score import PENALTY, Score
from raytune_rl.mdp.state import SIGNALS, MemberState, advance, ranking

__all__ = [
    "PENALTY",
    "SIGNALS",
    "SOURCES",
    "ActionSpec",
    "EnsembleStats",
    "EpisodeBuffer",
    "Head",
    "MemberState",
    "Move",
    "ObservationSpec",
    "Reward",
    "RewardContext",
    "Score",
    "advance",
    "cost_aware",
    "difference",
    "final",
    "improvement",
    "mixed",
    "ranking",
    "table",
    "team",
]
