"""Writes decisions down: from positions, a schedule or a script to the values that a member gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from raytune_rl.controller.policy import Choice
from raytune_rl.hyperparameters import SearchSpace
from raytune_rl.records import Decision, Report, Value

Script = Sequence[Mapping[str, Value]]
"""Values by segment; the last ones hold for all that come after."""


def draft(
    space: SearchSpace,
    member: int,
    segment: int,
    positions: Sequence[float],
    *,
    factor: float,
    script: Script | None = None,
    **others: Any,
) -> Decision:
    """A decision for ``segment``.

    Args:
        space: the hyperparameters.
        member, segment: whom and what it is for.
        positions: one in [0, 1] per hyperparameter.
        factor: of the learning-rate schedule at that segment.
        script: values that stand whatever the positions are.
        others: further fields of the decision.
    """
    if script is not None:
        values = dict(script[min(segment, len(script) - 1)])
        positions = space.encode(values)
    else:
        values = space.decode(positions, factor=factor)
    return Decision(member=member, segment=segment, hyperparameters=values, positions=tuple(positions), **others)


def positions_of(space: SearchSpace, report: Report, *, factor: float) -> tuple[float, ...] | None:
    """The positions behind the values that a report was trained with; ``None`` if it does not tell them all."""
    scaled = {h.name for h in space if h.role == "learning_rate"}
    base = {n: v / factor if n in scaled else v for n, v in report.hyperparameters.items()}  # type: ignore[operator]
    return space.encode(base) if all(name in base for name in space.names) else None


def chosen(choice: Choice, observation: np.ndarray) -> dict[str, Any]:
    """The fields of a decision that tell how it came about."""
    return {
        "observation": tuple(observation.tolist()),
        "action": choice.action,
        "logp": choice.logp,
        "value": choice.value,
        "policy_version": choice.version,
        "extras": choice.extras,
    }
