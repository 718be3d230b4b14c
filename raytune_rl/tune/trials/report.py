"""Turns Tune's results and configurations into the project's records and back. Pure functions."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from typing import Any

from ray.air.constants import TIME_THIS_ITER_S, TRAINING_ITERATION
from ray.tune.experiment import Trial
from ray.tune.result import DONE, HOSTNAME, TIME_TOTAL_S

from raytune_rl.mdp.state import SIGNALS
from raytune_rl.records import Report, Value
from raytune_rl.tune.trainable import numbers
from raytune_rl.tune.trials.track import Track

ITERATION = TRAINING_ITERATION
SECONDS = TIME_TOTAL_S


def get_values(config: Mapping[str, Any], names: Iterable[str]) -> dict[str, Value]:
    """The named entries that ``config`` has. A name such as ``optimizer/lr`` means a nested entry."""
    values = {}
    for name in names:
        value: Any = config.get(name, config)
        if value is config:
            for key in name.split("/"):
                value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, int | float | str | bool):
            values[name] = value
        elif hasattr(value, "item"):  # numpy scalars
            values[name] = value.item()
    return values


def set_values(config: Mapping[str, Any], values: Mapping[str, Value]) -> dict[str, Any]:
    """A copy of ``config`` with ``values`` in it, nested as their names say.

    Values that differ only by rounding are left alone, so that a decision to stay changes nothing.
    """
    changed, present = dict(config), get_values(config, values)
    for name, value in values.items():
        if name in present and same(value, present[name]):
            continue
        *path, last = [name] if name in config or "/" not in name else name.split("/")
        place = changed
        for key in path:
            place[key] = copy.copy(place.get(key, {}))
            place = place[key]
        place[last] = value
    return changed


def same(a: Value, b: Value) -> bool:
    """Whether two values are equal up to rounding."""
    if type(a) is float and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-6)
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def make_report(
    trial: Trial,
    result: Mapping[str, Any],
    *,
    member: int,
    track: Track,
    at: int,
    names: Iterable[str],
    metric: str,
    done: bool,
) -> Report:
    """The report of a (flattened) result.

    A hyperparameter's effective value is the number that the result has under its name, or else the entry in the
    configuration of the running Trainable.
    """
    config = {key.removeprefix("config/"): value for key, value in result.items() if key.startswith("config/")}
    effective = get_values(config, names) or get_values(trial.config, names)
    for name in effective:
        # What the candidate reports is more certain than its configuration.
        if isinstance(effective[name], int | float) and isinstance(result.get(name), int | float):
            effective[name] = result[name]
    metrics = {k: v for k, v in numbers(result).items() if not k.startswith("config/") and k != "should_checkpoint"}
    opening = track.newest
    spent = float(result.get(SECONDS) or 0.0) - opening.seconds
    return Report(
        member=member,
        segment=track.segment,
        steps=at,
        metrics=metrics,
        signals={name: metrics[name] for name in SIGNALS if name in metrics},
        hyperparameters=effective,
        decision=opening.decision,
        seconds=spent if spent > 0 else float(result.get(TIME_THIS_ITER_S) or 0.0),
        trial_id=trial.trial_id,
        node=str(result.get(HOSTNAME, "")),
        copied_from=opening.copied_from,
        copied_segment=opening.copied_segment,
        status="ok" if math.isfinite(metrics.get(metric, math.nan)) else "diverged",
        done=done,
    )


def is_out_of_budget(trial: Trial, result: Mapping[str, Any]) -> bool:
    """Whether the user's stop criterion ended the trial, rather than the trial itself."""
    criteria = ((key, limit) for key, limit in trial.stopping_criterion.items() if key != DONE)
    return any(key in result and result[key] >= limit for key, limit in criteria)


def seconds_of(result: Mapping[str, Any]) -> float:
    """The training time that the trial had spent at ``result``."""
    value = result.get(SECONDS)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else 0.0
