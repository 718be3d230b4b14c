"""Reads an agent's checkpoint without RLlib: whether it fits, and the acting copy's weights."""

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
    checkpoint = checkpoints.newest(directory)
    if checkpoint is None:
        raise ValueError(f"There is no complete agent checkpoint in {directory}.")
    record = checkpoint.record
    settings = {"network": record.get("network", Agent.network), "algorithm": record["agent"]["algorithm"]}
    settings |= {"hidden": tuple(record["agent"]["hidden"])}
    settings |= {name: record["agent"].get(name, getattr(Agent, name)) for name in ("agents", "modules")}
    if agent.modules == "own":
        settings["population"] = record["agent"]["population"]
    for name, value in settings.items():
        if value != getattr(agent, name):
            raise ValueError(f"The agent in {directory} has {name}={value!r}, this one {getattr(agent, name)!r}.")
    for name in ("features", "heads", "nvec"):
        if tuple(record[name]) != getattr(sizes, name):
            difference = _difference(record[name], getattr(sizes, name))
            raise ValueError(f"The agent in {directory} was made for other {name}: {difference}.")
    return checkpoint


def read_weights(checkpoint: checkpoints.Checkpoint) -> Weights:
    """The acting copy's weights in a checkpoint; nothing is unpickled."""
    with np.load(checkpoint.path / WEIGHTS, allow_pickle=False) as data:
        return {name: data[name] for name in data.files}


def _difference(old: Sequence[Any], new: Sequence[Any]) -> str:
    missing, added = [x for x in old if x not in new], [x for x in new if x not in old]
    if len(old) != len(new) or not (missing or added):
        return f"{len(old)} then, {len(new)} now" if len(old) != len(new) else "another order"
    return f"{missing[0]!r} then, {added[0]!r} now" if missing and added else f"{list(old)} then, {list(new)} now"
