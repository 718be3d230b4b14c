"""The decision process as pure code: what an agent sees, does and is paid for, for any search space and population.

``state`` sums a member's past up, ``observation`` shows it, ``action`` moves it, ``reward`` pays for it, ``episode``
collects it, and ``python -m raytune_rl.mdp`` prints the table of it all. No Ray, no torch, no I/O, no randomness.
"""

from raytune_rl.mdp.action import SOURCES, ActionSpec, Head, Move
from raytune_rl.mdp.episode import EpisodeBuffer
from raytune_rl.mdp.features import table
from raytune_rl.mdp.observation import ObservationSpec
from raytune_rl.mdp.reward import Reward, RewardContext, cost_aware, difference, final, improvement, mixed, team
from raytune_rl.mdp.score import PENALTY, Score
from raytune_rl.mdp.standing import Standing
from raytune_rl.mdp.state import SIGNALS, MemberState, advance, ranking

__all__ = [
    "PENALTY",
    "SIGNALS",
    "SOURCES",
    "ActionSpec",
    "EpisodeBuffer",
    "Head",
    "MemberState",
    "Move",
    "ObservationSpec",
    "Reward",
    "RewardContext",
    "Score",
    "Standing",
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
