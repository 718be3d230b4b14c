"""What runs inside the actor of a user's class Trainable, so that it can be changed without a pause.

Ray runs both functions in the actor through ``__ray_call__``. They use the Trainable's own ``save``, ``restore`` and
``reset_config``, in the order that ``trainable.find_reset_order`` has found for its class.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray import tune

from raytune_rl.tune.trainable import InMemoryCheckpoint, change_config, reset_order, take_checkpoint
from raytune_rl.tune.trials.adapter import counters, detached


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome of a change.

    Attributes:
        done: it has been carried out.
        unsupported: ``reset_config`` refused; the trial is as it was.
        error: why it failed, if it did; the trial is as it was unless ``broken``.
        broken: the Trainable's own code raised halfway, so it may be in any state.
        config: its configuration now.
    """

    done: bool = False
    unsupported: bool = False
    error: str = ""
    broken: bool = False
    config: Mapping[str, Any] = field(default_factory=dict)


def export(instance: tune.Trainable) -> InMemoryCheckpoint:
    """The present weights, for another trial."""
    with detached(instance):
        return take_checkpoint(instance)


def reconfigure(
    instance: tune.Trainable, config: Mapping[str, Any], weights: Sequence[ray.ObjectRef] | tune.Checkpoint | None
) -> Outcome:
    """Give the running instance a new configuration, and other weights if there are any.

    Args:
        config: the whole configuration.
        weights: a one-element list with the reference to an ``export``, a checkpoint in storage, or ``None``.

    Never raises: the caller has to know whether the instance has survived an error (``Outcome.broken``).
    """
    try:
        state = _fetch(weights)
    except Exception as error:  # the donor has died, or its checkpoint has been deleted
        return Outcome(error=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
    try:
        with detached(instance):
            order = reset_order(instance, type(instance))
            if state is not None:
                # The receiver keeps its own count of iterations: its training is as long as everybody's.
                state = InMemoryCheckpoint(files=state.files, counters=counters(instance))
            if not change_config(instance, config, order, state):
                return Outcome(unsupported=True, config=instance.config)
    except Exception:
        return Outcome(error=traceback.format_exc(), broken=True)
    return Outcome(done=True, config=instance.config)


def _fetch(weights: Sequence[ray.ObjectRef] | tune.Checkpoint | None) -> InMemoryCheckpoint | None:
    if weights is None:
        return None
    if isinstance(weights, tune.Checkpoint):
        with weights.as_directory() as directory:
            checkpoint = InMemoryCheckpoint.read(Path(directory))
        if not checkpoint.files:
            raise FileNotFoundError(f"no checkpoint in {weights.path}")
        return checkpoint
    checkpoint = ray.get(weights[0])
    assert isinstance(checkpoint, InMemoryCheckpoint)
    return checkpoint
