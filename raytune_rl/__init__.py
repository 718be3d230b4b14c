"""Ray Tune trials as the environment of an RLlib agent: it steers the training of other models while they train.

Importing this package is light: Ray and torch are imported when something that needs them is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from raytune_rl._version import __version__

if TYPE_CHECKING:
    from raytune_rl.controller.failures import FailurePolicy
    from raytune_rl.controller.policies import PBT, Cosine, Fixed, Random
    from raytune_rl.controller.rollback import Floor
    from raytune_rl.ensemble.loading import load
    from raytune_rl.ensemble.settings import Ensemble
    from raytune_rl.errors import BadInput
    from raytune_rl.experiment import Experiment, StopRule
    from raytune_rl.hyperparameters import roles
    from raytune_rl.mdp import reward as rewards
    from raytune_rl.population import augmentations
    from raytune_rl.population.torch_task import TorchTask
    from raytune_rl.pretrained import Pretrained
    from raytune_rl.rllib.settings import Agent
    from raytune_rl.scheduler import MetaAgentScheduler

_HOMES = {
    "PBT": "controller.policies",
    "Agent": "rllib.settings",
    "BadInput": "errors",
    "Cosine": "controller.policies",
    "Ensemble": "ensemble.settings",
    "Experiment": "experiment",
    "FailurePolicy": "controller.failures",
    "Fixed": "controller.policies",
    "Floor": "controller.rollback",
    "MetaAgentScheduler": "scheduler",
    "Pretrained": "pretrained",
    "Random": "controller.policies",
    "StopRule": "experiment",
    "TorchTask": "population.torch_task",
    "augmentations": "population.augmentations",
    "load": "ensemble.loading",
    "rewards": "mdp.reward",
    "roles": "hyperparameters.roles",
}
_MODULES = {"augmentations", "rewards", "roles"}

__all__ = [
    "PBT",
    "Agent",
    "BadInput",
    "Cosine",
    "Ensemble",
    "Experiment",
    "FailurePolicy",
    "Fixed",
    "Floor",
    "MetaAgentScheduler",
    "Pretrained",
    "Random",
    "StopRule",
    "TorchTask",
    "__version__",
    "augmentations",
    "load",
    "rewards",
    "roles",
]


def __getattr__(name: str) -> Any:
    """Import what is asked for (PEP 562), so that an editor sees all of it and an import costs only what is used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'raytune_rl' has no attribute {name!r}")
    module = import_module(f"raytune_rl.{_HOMES[name]}")
    value = module if name in _MODULES else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
