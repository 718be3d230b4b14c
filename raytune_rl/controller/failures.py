"""What happens to members that go wrong."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class FailurePolicy:
    """What happens to a member that failed, diverged or hung.

    Attributes:
        max_restarts: how often it goes on from its own best weights (from its start where it has none) before it is
            stopped. 0 stops it at once.
    """

    max_restarts: int = 2

    def __post_init__(self) -> None:
        if self.max_restarts < 0:
            raise ValueError(f"FailurePolicy.max_restarts is {self.max_restarts}; it must be 0 or more.")
