"""The typed kinds of hyperparameters: how values become positions in [0, 1], move there, and become values again.

Agents, starting values and copies work on *positions*, which mean the same for a learning rate and for a number of
layers: 0 is the lower end of the range and 1 the upper one, in the range's own scale. Only ``decode`` makes values, and
these are always inside the bounds, whatever the position (NaN counts as the middle).

To add a kind, write a class here, and the line in ``domains.py`` that recognises what users write for it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, TypeGuard, final

from raytune_rl.hyperparameters.roles import REGULARISATION, ROLE_BOUNDS, ROLES, Role
from raytune_rl.records import Value

LEVELS: Final = 7
"""Number of choices per hyperparameter in a decision: moves, or starting values in the first decision."""

STAY: Final = 3
"""The index in the middle: the move that does not change the position at all."""

LEARNING_RATE_FACTORS: Final = (0.1, 0.3, 0.6, 1.0, 1.6, 3.0, 10.0)
LOG_FACTORS: Final = (0.2, 0.4, 0.7, 1.0, 1.4, 2.5, 5.0)
"""Factors by which a move multiplies a value on a log scale."""
LINEAR_SHARES: Final = (-0.25, -0.1, -0.04, 0.0, 0.04, 0.1, 0.25)
"""What a move adds to a value on a linear scale, as a share of the range."""


def clip_position(position: float) -> float:
    """``position`` clipped to [0, 1]; NaN becomes the middle."""
    return 0.5 if math.isnan(position) else min(max(position, 0.0), 1.0)


@dataclass(frozen=True, kw_only=True)
class Hyperparameter(ABC):
    """One named hyperparameter. Subclasses are final and add the range or the options.

    Attributes:
        name: as the candidate knows it.
        role: see ``roles``.
        live: whether it may change during training.
    """

    name: str
    role: Role = "none"
    live: bool = True

    @abstractmethod
    def encode(self, value: Value) -> float:
        """The position of ``value`` in [0, 1]; numbers outside the range are moved to its nearer end.

        Raises:
            ValueError: ``value`` is NaN, of the wrong type, or not an option of a choice.
        """

    @abstractmethod
    def decode(self, position: float, factor: float = 1.0) -> Value:
        """The value at ``position``, always inside the bounds and on the grid, if there is one.

        ``factor`` (of a schedule, at least 0) multiplies the value, which is then clipped to the bounds. A choice
        ignores it.
        """

    @abstractmethod
    def move(self, position: float, index: int) -> float:
        """The position after move ``index`` (0 ... ``LEVELS`` - 1; ``STAY`` changes nothing), in [0, 1].

        Raises:
            ValueError: there is no such move.
        """

    def level(self, index: int) -> float:
        """The position of starting value ``index`` (0 ... ``LEVELS`` - 1), evenly spaced.

        For regularisation they include both ends of the range, since the lower end means "off". For everything else
        they are the middles of ``LEVELS`` equal parts.

        Raises:
            ValueError: there is no such level.
        """
        _check_index(self, index)
        if self.role in REGULARISATION:
            return index / (LEVELS - 1)
        return (index + 0.5) / LEVELS

    @property
    @abstractmethod
    def is_log(self) -> bool:
        """Whether equal distances between positions are equal *ratios* of values."""

    @property
    @abstractmethod
    def is_ordered(self) -> bool:
        """Whether the values have an order, which their positions follow."""


@dataclass(frozen=True, kw_only=True)
class _Number(Hyperparameter, ABC):
    """What floats and integers share: a range, a scale, and perhaps a grid of ``lower + k * step``."""

    lower: float
    upper: float
    log: bool = False
    step: float | None = None

    def __post_init__(self) -> None:
        _check_name_and_role(self)
        for bound in (self.lower, self.upper):
            if not (_is_number(bound) and math.isfinite(bound)):
                raise ValueError(f"hyperparameter '{self.name}': the bound {bound!r} must be a finite number")
        if not self.lower < self.upper:
            raise ValueError(
                f"hyperparameter '{self.name}': the lower bound {self.lower:g} must be smaller than the upper bound "
                f"{self.upper:g}"
            )
        if not math.isfinite(self.upper - self.lower):
            raise ValueError(f"hyperparameter '{self.name}': the range {self.lower:g} to {self.upper:g} is too wide")
        if self.log and self.lower <= 0:
            raise ValueError(
                f"hyperparameter '{self.name}': a log scale cannot include {self.lower:g}, its lower bound must be "
                "greater than 0"
            )
        if self.step is not None and not 0 < self.step <= self.upper - self.lower:
            raise ValueError(
                f"hyperparameter '{self.name}': the step {self.step:g} must be greater than 0 and fit between "
                f"{self.lower:g} and {self.upper:g}"
            )
        low, high = ROLE_BOUNDS.get(self.role, (-math.inf, math.inf))
        if self.lower < low or self.upper > high:
            raise ValueError(
                f"hyperparameter '{self.name}': the range {self.lower:g} to {self.upper:g} leaves "
                f"[{low:g}, {high:g}], the bounds of the role {self.role}"
            )

    @property
    def is_log(self) -> bool:
        return self.log

    @property
    def is_ordered(self) -> bool:
        return True

    def encode(self, value: Value) -> float:
        number = _number(self, value)
        return _fraction(number, self.lower, self.upper, self.log)

    def move(self, position: float, index: int) -> float:
        _check_index(self, index)
        position = clip_position(position)
        if index == STAY:
            return position
        if self.log:
            factors = LEARNING_RATE_FACTORS if self.role == "learning_rate" else LOG_FACTORS
            change = math.log(factors[index]) / (math.log(self.upper) - math.log(self.lower))
        else:
            change = LINEAR_SHARES[index]
        return self._settle(position, clip_position(position + change))

    def _settle(self, before: float, after: float) -> float:
        """Where a move from ``before`` to ``after`` ends. On a grid it ends on a grid point, at least one step away: a
        move that does not change the value would be a decision without effect."""
        if self.step is None:
            return after
        old, new = self._index(before), self._index(after)
        if new == old:
            new = old + (1 if after > before else -1)
        return self._position_of(min(max(new, 0), self._last))

    @property
    def _last(self) -> int:
        """The index of the grid's largest value."""
        assert self.step is not None
        # The tolerance keeps the end of a range such as 0 ... 0.3 in steps of 0.1, in spite of rounding.
        return math.floor((self.upper - self.lower) / self.step + 1e-9)

    @abstractmethod
    def _index(self, position: float) -> int:
        """The grid index of the value at ``position``."""

    def _position_of(self, index: int) -> float:
        assert self.step is not None
        return _fraction(self.lower + index * self.step, self.lower, self.upper, self.log)

    def _nearest(self, number: float) -> int:
        """The index of the grid value closest to ``number``."""
        assert self.step is not None
        number = min(max(number, self.lower), self.upper)
        return min(round((number - self.lower) / self.step), self._last)


@final
@dataclass(frozen=True, kw_only=True)
class Float(_Number):
    """A float in [lower, upper], on a linear or a log scale, perhaps on a grid of ``lower + k * step``."""

    def decode(self, position: float, factor: float = 1.0) -> float:
        number = _between(clip_position(position), self.lower, self.upper, self.log) * factor
        if self.step is None:
            return float(min(max(number, self.lower), self.upper))
        number = self.lower + self._nearest(number) * self.step
        # 0.1 + 2 * 0.1 is 0.30000000000000004; twelve digits are what the user wrote.
        return min(max(float(f"{number:.12g}"), float(self.lower)), float(self.upper))

    def _index(self, position: float) -> int:
        return self._nearest(_between(position, self.lower, self.upper, self.log))


@final
@dataclass(frozen=True, kw_only=True)
class Integer(_Number):
    """An int in [lower, upper], both included, on a linear or a log scale, on a grid of ``lower + k * step``.

    Each value has an equal part of the positions (on a log scale: of the log range), as with ``tune.randint``.
    """

    step: float | None = 1

    def __post_init__(self) -> None:
        for number in (self.lower, self.upper, self.step):
            if not isinstance(number, int):
                raise ValueError(f"hyperparameter '{self.name}': {number!r} must be an integer")
        _Number.__post_init__(self)

    def decode(self, position: float, factor: float = 1.0) -> int:
        assert self.step is not None
        index = self._index(clip_position(position))
        if factor != 1.0:
            index = self._nearest((self.lower + index * self.step) * factor)
        return int(self.lower + index * self.step)

    def _index(self, position: float) -> int:
        assert self.step is not None
        # The range is extended by one step, so that its last value gets a part as wide as the others.
        number = _between(position, self.lower, self.upper + self.step, self.log)
        return min(math.floor((number - self.lower) / self.step + 1e-9), self._last)


@final
@dataclass(frozen=True, kw_only=True)
class Choice(Hyperparameter):
    """One of ``options``. Strictly rising or falling numbers are ordered: moves go along them and stop at the ends.
    Other options form a circle, so that each can be reached from every other."""

    options: tuple[Value, ...]

    def __post_init__(self) -> None:
        _check_name_and_role(self)
        if not self.options:
            raise ValueError(f"hyperparameter '{self.name}': a choice needs at least one option")
        low, high = ROLE_BOUNDS.get(self.role, (-math.inf, math.inf))
        for option in self.options:
            if not _is_value(option):
                raise ValueError(
                    f"hyperparameter '{self.name}': the option {option!r} must be a number, a string or a bool (give "
                    "other objects a name and let the candidate look them up)"
                )
            if _is_number(option) and not low <= option <= high:
                raise ValueError(
                    f"hyperparameter '{self.name}': the option {option!r} leaves [{low:g}, {high:g}], the bounds "
                    f"of the role {self.role}"
                )
        if len({(type(option), option) for option in self.options}) < len(self.options):
            raise ValueError(f"hyperparameter '{self.name}': an option occurs twice in {list(self.options)!r}")

    @property
    def is_log(self) -> bool:
        return False

    @property
    def is_ordered(self) -> bool:
        numbers = [option for option in self.options if _is_number(option)]
        if len(numbers) < len(self.options):
            return False
        return all(a < b for a, b in pairwise(numbers)) or all(a > b for a, b in pairwise(numbers))

    def encode(self, value: Value) -> float:
        matches = [i for i, option in enumerate(self.options) if option == value]
        exact = [i for i in matches if type(self.options[i]) is type(value)]
        if not matches:
            raise ValueError(f"hyperparameter '{self.name}': {value!r} must be one of {list(self.options)!r}")
        return self._position_of((exact or matches)[0])

    def decode(self, position: float, factor: float = 1.0) -> Value:
        return self.options[self._index(position)]

    def move(self, position: float, index: int) -> float:
        _check_index(self, index)
        if index == STAY:
            return clip_position(position)
        target = self._index(position) + index - STAY
        if self.is_ordered:
            return self._position_of(min(max(target, 0), len(self.options) - 1))
        return self._position_of(target % len(self.options))

    def _index(self, position: float) -> int:
        return min(int(clip_position(position) * len(self.options)), len(self.options) - 1)

    def _position_of(self, index: int) -> float:
        return index / (len(self.options) - 1) if len(self.options) > 1 else 0.0


def _check_name_and_role(hyperparameter: Hyperparameter) -> None:
    name: object = hyperparameter.name
    if not (isinstance(name, str) and name):
        raise ValueError(f"the name of a hyperparameter must be a string that is not empty, and {name!r} is none")
    if hyperparameter.role not in ROLES:
        raise ValueError(f"hyperparameter '{name}': the role {hyperparameter.role!r} must be one of {', '.join(ROLES)}")


def _check_index(hyperparameter: Hyperparameter, index: int) -> None:
    if not 0 <= index < LEVELS:
        raise ValueError(f"hyperparameter '{hyperparameter.name}': the index {index} must be in 0 ... {LEVELS - 1}")


def _is_number(value: object) -> TypeGuard[float]:
    """Whether it is a float or an int. Bools do not count, although Python's bools are ints."""
    return isinstance(value, float | int) and not isinstance(value, bool)


def _is_value(value: object) -> TypeGuard[Value]:
    return isinstance(value, float | int | str | bool) and value == value


def _number(hyperparameter: Hyperparameter, value: Value) -> float:
    if not _is_number(value) or math.isnan(value):
        raise ValueError(f"hyperparameter '{hyperparameter.name}': {value!r} must be a number")
    return value


def _fraction(number: float, lower: float, upper: float, log: bool) -> float:
    """The position of ``number`` between the bounds, in [0, 1]."""
    if number <= lower:
        return 0.0
    if number >= upper:
        return 1.0
    if log:
        return clip_position((math.log(number) - math.log(lower)) / (math.log(upper) - math.log(lower)))
    return clip_position((number - lower) / (upper - lower))


def _between(fraction: float, lower: float, upper: float, log: bool) -> float:
    """The number at ``fraction`` of the way between the bounds; at 0 and 1 it is exactly the bound."""
    if fraction <= 0:
        return lower
    if fraction >= 1:
        return upper
    if log:
        return math.exp(math.log(lower) + fraction * (math.log(upper) - math.log(lower)))
    return lower + fraction * (upper - lower)
