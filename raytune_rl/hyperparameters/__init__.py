"""Typed hyperparameters: what may change, inside which bounds, and in what steps.

``roles`` has what users write, ``kinds`` how a single hyperparameter behaves, and ``space`` the search space that the
rest of the package works with.
"""

from raytune_rl.hyperparameters import roles
from raytune_rl.hyperparameters.kinds import LEVELS, STAY, Choice, Float, Hyperparameter, Integer
from raytune_rl.hyperparameters.roles import ROLES, SEEN_ROLES, Role, Spec
from raytune_rl.hyperparameters.space import SearchSpace

__all__ = [
    "LEVELS",
    "ROLES",
    "SEEN_ROLES",
    "STAY",
    "Choice",
    "Float",
    "Hyperparameter",
    "Integer",
    "Role",
    "SearchSpace",
    "Spec",
    "roles",
]
