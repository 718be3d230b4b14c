"""Packed populations as standard environments, for agents and libraries other than those of this package.

``SegmentEnv`` (Gymnasium; once this package is imported also ``gymnasium.make("raytune_rl/Segment-v0")``),
``VectorSegmentEnv`` (``gymnasium.make_vec``), ``ParallelPopulationEnv`` (PettingZoo, an extra), and for RLlib
``raytune_rl.rllib.environment.PopulationMultiAgentEnv``. All of them have the decision process of real trials.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium

from raytune_rl.worlds.environments.population import Population
from raytune_rl.worlds.environments.segment import SegmentEnv, VectorSegmentEnv

if TYPE_CHECKING:
    from raytune_rl.worlds.environments.parallel import ParallelPopulationEnv

__all__ = ["ParallelPopulationEnv", "Population", "SegmentEnv", "VectorSegmentEnv"]

gymnasium.register(
    id="raytune_rl/Segment-v0",
    entry_point="raytune_rl.worlds.environments.segment:SegmentEnv",
    vector_entry_point="raytune_rl.worlds.environments.segment:VectorSegmentEnv",
)


def __getattr__(name: str) -> Any:
    """Import ``ParallelPopulationEnv`` on first use, since PettingZoo is an optional dependency."""
    if name != "ParallelPopulationEnv":
        raise AttributeError(f"module 'raytune_rl.worlds.environments' has no attribute {name!r}")
    try:
        from raytune_rl.worlds.environments.parallel import ParallelPopulationEnv
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error.msg}, which ParallelPopulationEnv needs: pip install 'raytune_rl[envs]'"
        ) from error
    return ParallelPopulationEnv
