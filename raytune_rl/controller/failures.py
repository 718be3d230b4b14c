"""What happens to members that go wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from raytune_rl.errors import BadInput
from raytune_rl.hyperparameters import SearchSpace

CALMER: Final = 0.25
"""What a learning rate is multiplied by after a member has diverged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailurePolicy:
    """What happens to a member that failed, diverged or hung.

    Attributes:
        max_restarts: how often it goes on from its own best weights (from its start where it has none) before it is
            stopped. 0 stops it at once. After a divergence its learning rates are lower, see ``calmed``.
    """

    max_restarts: int = 2

    def __post_init__(self) -> None:
        if not isinstance(self.max_restarts, int) or self.max_restarts < 0:
            raise BadInput(f"failures.max_restarts is {self.max_restarts}; it must be a whole number of at least 0.")


def calmed(space: SearchSpace, positions: Sequence[float], diverged: Sequence[float]) -> tuple[float, ...]:
    """Positions with which a member that has diverged goes on: live learning rates are at most ``CALMER`` times those
    that it ``diverged`` with, since with the same ones it would most likely diverge again.

    Args:
        positions: that it would go on with otherwise.
    """
    found = list(positions)
    for index, one in enumerate(space):
        if one.role == "learning_rate" and one.live and one.is_ordered:
            found[index] = min(found[index], one.encode(one.decode(diverged[index], CALMER)))
    return tuple(found)
