"""Small steps of a controller, for everything that writes or shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raytune_rl.records import Decision, Incumbent, Report, Step, Value

HYPERPARAMETERS: Mapping[str, Value] = {"lr": 0.01, "layers": 3, "activation": "relu", "nesterov": True}
FEATURES = ("progress", "rank")
ACTIONS = ("hp/lr", "source")
BY_NOBODY: Mapping[str, Any] = {"action": (), "observation": ()}
"""A decision that no policy was asked for."""


def report(member: int, segment: int, value: float = 1.0, **changes: Any) -> Report:
    fields: dict[str, Any] = {
        "member": member,
        "segment": segment,
        "steps": 10 * (segment + 1),
        "metrics": {"loss": value},
        "hyperparameters": HYPERPARAMETERS,
        "seconds": 0.5,
        "trial_id": f"trial{member}",
        "node": "here",
    }
    return Report(**{**fields, **changes})


def decision(member: int, segment: int, **changes: Any) -> Decision:
    fields: dict[str, Any] = {
        "hyperparameters": HYPERPARAMETERS,
        "positions": (0.5, 0.5),
        "action": (3, 0),
        "observation": (0.25, 0.75),
        "logp": -1.5,
        "policy_version": 4,
    }
    return Decision(member=member, segment=segment, **{**fields, **changes})


def step(*reports: Report, asked: bool = True, incumbent: Incumbent | None = None, **changes: Any) -> Step:
    """One step; ``changes`` go into the new decisions."""
    return Step(
        reports=reports,
        opened=tuple(decision(r.member, r.segment, **({} if asked else BY_NOBODY)) for r in reports),
        rewards=tuple(0.1 for _ in reports),
        decisions=tuple(decision(r.member, r.segment + 1, **changes) for r in reports),
        incumbent=incumbent,
    )
