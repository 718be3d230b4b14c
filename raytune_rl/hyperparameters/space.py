"""The search space: an ordered set of hyperparameters, and positions for all of them at once.

A member's hyperparameters travel as a tuple of positions in [0, 1], one per hyperparameter in the order of ``names``.
Values exist at the edges only: what a candidate gets, and what a user or a searcher passes in.
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
"""The share of a spread population that starts with a regularisation at the lower end of its range, exactly."""


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
        """The space of what a user wrote: names to ``roles`` specs or bare domains, which get no role.

        Raises:
            ValueError: one sentence with the hyperparameter's name, what was written and what is right.
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
        """Positions in [0, 1]; numbers outside their range are taken to its nearer end, other names are ignored.

        Raises:
            ValueError: a hyperparameter is missing, NaN, of the wrong type, or none of a choice's options.
        """
        missing = [name for name in self.names if name not in values]
        if missing:
            raise ValueError(f"the hyperparameter '{missing[0]}' has no value in {dict(values)!r}")
        return tuple(h.encode(values[h.name]) for h in self.hyperparameters)

    def decode(self, positions: Sequence[float], factor: float = 1.0) -> dict[str, Value]:
        """Values inside their bounds, for any positions.

        ``factor`` (of a schedule, at least 0) multiplies the values of the role ``learning_rate``, within their bounds.

        Raises:
            ValueError: not one position per hyperparameter, or a factor that is negative, NaN or infinite.
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
        """``n`` starting positions that cover the space: a Latin hypercube, one member in each n-th of every range.

        Regularisation (see ``roles.REGULARISATION``) is at its lower end for a third of the members, rounded, and
        spread over its range for the others.
        """
        columns = [_column(n, rng, with_low_end=h.role in REGULARISATION) for h in self.hyperparameters]
        return [tuple(float(column[member]) for column in columns) for member in range(n)]


def _column(n: int, rng: np.random.Generator, *, with_low_end: bool) -> np.ndarray:
    low = round(n * LOW_END_SHARE) if with_low_end else 0
    others = n - low
    inside = (np.arange(others) + rng.random(others)) / max(others, 1)
    return rng.permutation(np.concatenate([np.zeros(low), inside]))
