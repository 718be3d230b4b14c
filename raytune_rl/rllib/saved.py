"""What can be read of an agent's checkpoint without RLlib: whether it fits, and the acting copy's weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from raytune_rl.rllib import checkpoints
from raytune_rl.rllib.network import Weights
from raytune_rl.rllib.settings import Agent
from raytune_rl.rllib.spaces import Sizes

WEIGHTS = "weights.npz"


def load(directory: str, agent: Agent, sizes: Sizes) -> checkpoints.Checkpoint:
    """The newest checkpoint in ``directory``, if it fits.

    Raises:
        ValueError: there is none, or it was made for other spaces or another algorithm.
    """
    found = checkpoints.newest(directory)
    if found is None:
        raise ValueError(f"There is no complete agent checkpoint in {directory}.")
    record = found.record
    was = {"network": record.get("network", Agent.network), "algorithm": record["agent"]["algorithm"]}
    was |= {"hidden": tuple(record["agent"]["hidden"])}
    was |= {name: record["agent"].get(name, getattr(Agent, name)) for name in ("agents", "modules")}
    if agent.modules == "own":
        was["population"] = record["agent"]["population"]
    for name, value in was.items():
        if value != getattr(agent, name):
            raise ValueError(f"The agent in {directory} has {name}={value!r}, this one {getattr(agent, name)!r}.")
    for name in ("features", "heads", "nvec"):
        if tuple(record[name]) != getattr(sizes, name):
            difference = _difference(record[name], getattr(sizes, name))
            raise ValueError(f"The agent in {directory} was made for other {name}: {difference}.")
    return found


def read_weights(found: checkpoints.Checkpoint) -> Weights:
    """The acting copy's weights of a checkpoint; nothing is unpickled."""
    with np.load(found.path / WEIGHTS, allow_pickle=False) as data:
        return {name: data[name] for name in data.files}


def _difference(old: Sequence[Any], new: Sequence[Any]) -> str:
    missing, added = [x for x in old if x not in new], [x for x in new if x not in old]
    if len(old) != len(new) or not (missing or added):
        return f"{len(old)} then, {len(new)} now" if len(old) != len(new) else "another order"
    return f"{missing[0]!r} then, {added[0]!r} now" if missing and added else f"{list(old)} then, {list(new)} now"
