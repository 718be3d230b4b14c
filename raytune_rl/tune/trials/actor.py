"""What runs inside the actor of somebody else's class Trainable, so that it can be changed without being paused.

Both functions go to the actor through ``__ray_call__``. They use the Trainable's own ``save``, ``restore`` and
``reset_config``, in the order that ``trainable.find_reset_order`` found to be right for its class.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray import tune

from raytune_rl.tune.trainable import ResetOrder, Snapshot, change_config, find_reset_order, take_snapshot
from raytune_rl.tune.trials.adapter import counters, detached

_orders: dict[type, ResetOrder] = {}  # what was found out in this process, by class


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a change.

    Attributes:
        done: it has been carried out.
        unsupported: ``reset_config`` refused; the trial is as it was.
        error: why it has not been carried out, when something failed; the trial is as it was unless ``broken``.
        broken: the Trainable's own code raised half way, so nobody knows what state it is in.
        config: its configuration now.
    """

    done: bool = False
    unsupported: bool = False
    error: str = ""
    broken: bool = False
    config: Mapping[str, Any] = field(default_factory=dict)


def export(instance: tune.Trainable) -> Snapshot:
    """The present weights, for another trial."""
    with detached(instance):
        return take_snapshot(instance)


def reconfigure(
    instance: tune.Trainable, config: Mapping[str, Any], weights: Sequence[ray.ObjectRef] | tune.Checkpoint | None
) -> Outcome:
    """Give the running instance a new configuration, and other weights if there are any.

    Args:
        config: the whole configuration.
        weights: a one-element list with the reference to an ``export``, a checkpoint in storage, or ``None``.

    Never raises: the caller has to tell apart what the instance survives and what not.
    """
    try:
        state = _fetch(weights)
    except Exception as error:  # the donor died, or its checkpoint has been deleted meanwhile
        return Outcome(error=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
    try:
        with detached(instance):
            order = _order(instance)
            if state is not None:
                # The receiver keeps its own count of iterations: its training is as long as everybody's.
                state = Snapshot(files=state.files, counters=counters(instance))
            if not change_config(instance, config, order, state):
                return Outcome(unsupported=True, config=instance.config)
    except Exception:
        return Outcome(error=traceback.format_exc(), broken=True)
    return Outcome(done=True, config=instance.config)


def _order(instance: tune.Trainable) -> ResetOrder:
    cls = type(instance)
    if cls not in _orders:
        _orders[cls] = find_reset_order(instance)
    return _orders[cls]


def _fetch(weights: Sequence[ray.ObjectRef] | tune.Checkpoint | None) -> Snapshot | None:
    if weights is None:
        return None
    if isinstance(weights, tune.Checkpoint):
        with weights.as_directory() as directory:
            root = Path(directory)
            paths = [path for path in sorted(root.rglob("*")) if path.is_file()]
            files = {path.relative_to(root).as_posix(): np.fromfile(path, dtype=np.uint8) for path in paths}
        if not files:
            raise FileNotFoundError(f"no checkpoint in {weights.path}")
        return Snapshot(files=files)
    snapshot = ray.get(weights[0])
    assert isinstance(snapshot, Snapshot)
    return snapshot
