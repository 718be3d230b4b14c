"""The search space: an ordered set of hyperparameters, and positions for all of them at once.

Inside the package, a member's hyperparameters are a tuple of positions in [0, 1], one per hyperparameter in the order
of ``names``. Values occur only at the edges: a candidate gets them, users and searchers pass them in.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raytune_rl.hyperparameters.domains import hyperparameter
from raytune_rl.hyperparameters.kinds import Hyperparameter
from raytune_rl.hyperparameters.roles import REGULARISATION, Spec
from raytune_rl.records import Value

LOW_END_SHARE = 1 / 3
"""The share of the members of ``spread`` that start with a regularisation exactly at the lower end of its range."""


@dataclass(frozen=True)
class SearchSpace:
    """Named hyperparameters in a fixed order.

    >>> from raytune_rl.hyperparameters.kinds import Float
    >>> space = SearchSpace((Float(name="lr", role="learning_rate", lower=1e-4, upper=1.0, log=True),))
    >>> space.encode({"lr": 0.01})
    (0.5,)
    >>> space.decode((1.0,), factor=0.5)
    {'lr': 0.5}
    """

    hyperparameters: tuple[Hyperparameter, ...]

    def __post_init__(self) -> None:
        if not self.hyperparameters:
            raise ValueError("a search space needs at least one hyperparameter")
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"the names of the hyperparameters must differ: {', '.join(self.names)}")

    @classmethod
    def from_specs(cls, specs: Mapping[str, Spec | Any]) -> SearchSpace:
        """The search space of a user: names mapped to specs of ``roles``, or to bare domains, which get no role.

        Raises:
            ValueError: a domain cannot be searched. One sentence has the name, what was written and what is right.
        """
        return cls(
            tuple(
                hyperparameter(name, spec if isinstance(spec, Spec) else Spec(domain=spec))
                for name, spec in specs.items()
            )
        )

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(h.name for h in self.hyperparameters)

    def __len__(self) -> int:
        return len(self.hyperparameters)

    def __iter__(self) -> Iterator[Hyperparameter]:
        return iter(self.hyperparameters)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> Hyperparameter:
        """The hyperparameter called ``name``; ``KeyError`` if there is none."""
        for candidate in self.hyperparameters:
            if candidate.name == name:
                return candidate
        raise KeyError(name)

    def encode(self, values: Mapping[str, Value]) -> tuple[float, ...]:
        """Positions in [0, 1]. Numbers outside their range are moved to its nearer end; unknown names are ignored.

        Raises:
            ValueError: a value is missing, NaN, of the wrong type, or not an option of its choice.
        """
        missing = [name for name in self.names if name not in values]
        if missing:
            raise ValueError(f"the hyperparameter '{missing[0]}' has no value in {dict(values)!r}")
        return tuple(h.encode(values[h.name]) for h in self.hyperparameters)

    def decode(self, positions: Sequence[float], factor: float = 1.0) -> dict[str, Value]:
        """Values by name, inside their bounds for any positions.

        ``factor`` (of a schedule, at least 0) multiplies values of the role ``learning_rate``, within their bounds.

        Raises:
            ValueError: the number of positions is wrong, or the factor is negative, NaN or infinite.
        """
        if len(positions) != len(self):
            raise ValueError(f"{len(positions)} positions were given for the {len(self)} hyperparameters of the space")
        if not (math.isfinite(factor) and factor >= 0):
            raise ValueError(f"the factor {factor} of the learning rates must be a number of at least 0")
        return {
            h.name: h.decode(float(position), factor if h.role == "learning_rate" else 1.0)
            for h, position in zip(self.hyperparameters, positions, strict=True)
        }

    def sample(self, rng: np.random.Generator) -> tuple[float, ...]:
        """Positions drawn uniformly over each domain, in its own scale."""
        return tuple(float(x) for x in rng.random(len(self)))

    def spread(self, n: int, rng: np.random.Generator) -> list[tuple[float, ...]]:
        """Starting positions for ``n`` members that cover the space: a Latin hypercube, with one member in each n-th of
        every range.

        Regularisation (see ``roles.REGULARISATION``) is at its lower end for a third of the members, rounded, and is
        spread over its range for the others.
        """
        columns = [_column(n, rng, with_low_end=h.role in REGULARISATION) for h in self.hyperparameters]
        return [tuple(float(column[member]) for column in columns) for member in range(n)]


def _column(n: int, rng: np.random.Generator, *, with_low_end: bool) -> np.ndarray:
    """The positions of one hyperparameter for ``n`` members, in random order."""
    low = round(n * LOW_END_SHARE) if with_low_end else 0
    others = n - low
    inside = (np.arange(others) + rng.random(others)) / max(others, 1)
    return rng.permutation(np.concatenate([np.zeros(low), inside]))
