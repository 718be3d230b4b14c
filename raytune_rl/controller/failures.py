"""What happens to members whose segment fails, diverges or hangs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from raytune_rl.errors import BadInput
from raytune_rl.hyperparameters import SearchSpace

DIVERGENCE_FACTOR: Final = 0.25
"""What a learning rate is multiplied by after a member has diverged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailurePolicy:
    """What happens to a member that failed, diverged or hung.

    Attributes:
        max_restarts: how often it restarts from its own best weights (from its start where it has none) before it is
            stopped. 0 stops it at once. After a divergence it restarts with lower learning rates, see
            ``reduce_learning_rates``.
    """

    max_restarts: int = 2

    def __post_init__(self) -> None:
        if not isinstance(self.max_restarts, int) or self.max_restarts < 0:
            raise BadInput(f"failures.max_restarts is {self.max_restarts}; it must be a whole number of at least 0.")


def reduce_learning_rates(
    space: SearchSpace, positions: Sequence[float], diverged: Sequence[float]
) -> tuple[float, ...]:
    """The positions with which a member restarts after a divergence.

    Live learning rates are at most ``DIVERGENCE_FACTOR`` times those that it diverged with: with the same ones it would
    most likely diverge again.

    Args:
        space: the hyperparameters.
        positions: with which it would restart otherwise, each in [0, 1].
        diverged: with which it diverged.
    """
    reduced = list(positions)
    for index, hyperparameter in enumerate(space):
        if hyperparameter.role == "learning_rate" and hyperparameter.live and hyperparameter.is_ordered:
            lower = hyperparameter.encode(hyperparameter.decode(diverged[index], DIVERGENCE_FACTOR))
            reduced[index] = min(reduced[index], lower)
    return tuple(reduced)
