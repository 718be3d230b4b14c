"""What every method of the comparison is given, and what it gives back."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType

import numpy as np

from quality.protocol import FIRST_SEED, MEMBERS, SEGMENTS
from raytune_rl.combining.losses import comparable
from raytune_rl.controller.schedule import schedule_factor
from raytune_rl.worlds.cohort import Cohort
from raytune_rl.worlds.delivery import Delivered, deliver
from raytune_rl.worlds.task import WorldTask


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one call of a method is to train.

    Attributes:
        members: trainings to the end that the budget pays for; the size of a population.
        seeds: independent runs, in one packed program.
        seed: of the first run; the others follow.
        watch: is shown each cohort after each of its segments, with its validation losses (seeds, members).
    """

    members: int = MEMBERS
    seeds: int = 1
    seed: int = FIRST_SEED
    watch: Callable[[Cohort, np.ndarray], None] | None = None

    @property
    def budget(self) -> int:
        """Member-segments per run."""
        return self.members * SEGMENTS

    def generators(self) -> list[np.random.Generator]:
        """One per run."""
        return [np.random.default_rng([self.seed + run, 0xBE]) for run in range(self.seeds)]


@dataclass(frozen=True, kw_only=True)
class Result:
    """Arrays of shape (seeds, budget), in the order of training: the validation loss after each member-segment, and
    what nobody sees before the end, loss and accuracy (NaN for regression) on test.

    ``delivered``: where the method is judged by the average of checkpoints that it would deliver, and not by its best
    one: that average after each segment of the population, arrays of shape (seeds, ``SEGMENTS``).
    """

    validation: np.ndarray
    test: np.ndarray
    accuracy: np.ndarray
    delivered: Delivered | None = None

    @classmethod
    def joined(cls, parts: Sequence[Result]) -> Result:
        """The runs of several, one after the other."""
        averages = [part.delivered for part in parts if part.delivered is not None]
        return cls(
            validation=np.concatenate([part.validation for part in parts]),
            test=np.concatenate([part.test for part in parts]),
            accuracy=np.concatenate([part.accuracy for part in parts]),
            delivered=Delivered.joined(averages) if averages else None,
        )


Method = Callable[[WorldTask, Plan], Result]
Starts = Callable[[WorldTask, int, np.random.Generator], np.ndarray]
"""``starts(task, count, rng)``: positions in the search space, (count, hyperparameters), in [0, 1]."""


class Log:
    """Collects what cohorts of (seeds x members) give, segment by segment.

    Args:
        deliver: also the average that each run would deliver after each segment. For one cohort that trains to the end.
    """

    def __init__(self, plan: Plan, *, deliver: bool = False) -> None:
        self._plan = plan
        self._rows: list[list[np.ndarray]] = []
        self._delivered: list[Delivered] | None = [] if deliver else None

    def add(self, cohort: Cohort, validation: np.ndarray, delivered: Delivered | None = None) -> np.ndarray:
        """One segment of a cohort; gives the losses back with infinity for NaN, shape (seeds, members). ``delivered``:
        what would be, where that is not the average of the cohort's checkpoints."""
        split = cohort.task.splits.test
        assert split is not None
        safe = comparable(validation)
        loss, accuracy = cohort.score(split)
        parts = (safe, comparable(loss), accuracy)
        self._rows.append([values.reshape(self._plan.seeds, -1) for values in parts])
        if self._delivered is not None:
            self._delivered.append(delivered or deliver(cohort, self._plan.members))
        if self._plan.watch is not None:
            self._plan.watch(cohort, self._rows[-1][0])
        return self._rows[-1][0]

    def in_turn(self, segments: int) -> None:
        """The last so many segments were trained member by member, one after the other, and not side by side."""
        last = self._rows[-segments:]
        joined = [np.stack(parts, axis=2).reshape(self._plan.seeds, -1) for parts in zip(*last, strict=True)]
        self._rows[-segments:] = [joined]

    @property
    def spent(self) -> int:
        """Member-segments per run so far."""
        return sum(row[0].shape[1] for row in self._rows)

    def result(self) -> Result:
        """Cut where the budget ends.

        Raises:
            RuntimeError: the method has left a part of it.
        """
        if self.spent < self._plan.budget:
            raise RuntimeError(f"A method trained {self.spent} of {self._plan.budget} member-segments.")
        validation, test, accuracy = (
            np.concatenate(parts, axis=1)[:, : self._plan.budget] for parts in zip(*self._rows, strict=True)
        )
        delivered = None if self._delivered is None else Delivered.stack(self._delivered)
        return Result(validation=validation, test=test, accuracy=accuracy, delivered=delivered)


def apply(cohort: Cohort, positions: np.ndarray, ages: int | Sequence[int], cosine: bool) -> None:
    """Set every member's hyperparameters.

    Args:
        positions: (K, hyperparameters).
        ages: segments that each member has trained for, or one number for all; says where its cosine is.
    """
    all_ages = [ages] * len(positions) if isinstance(ages, int) else ages
    factors = [schedule_factor("cosine" if cosine else "constant", age, SEGMENTS) for age in all_ages]
    decode = cohort.task.space.decode
    cohort.apply([decode(row, factor) for row, factor in zip(positions.tolist(), factors, strict=True)])


class GlobalRandomness:
    """A stream of its own for library code that draws from the global generators of Python and numpy.

    Inside ``with`` the global generators are this one's, and afterwards what they were.
    """

    def __init__(self, seed: int) -> None:
        self._state = (random.Random(seed).getstate(), np.random.RandomState(seed).get_state())

    def __enter__(self) -> None:
        self._outer = (random.getstate(), np.random.get_state())
        _set(*self._state)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._state = (random.getstate(), np.random.get_state())
        _set(*self._outer)


def _set(python: object, numpy: object) -> None:
    random.setstate(python)  # type: ignore[arg-type]
    np.random.set_state(numpy)  # type: ignore[arg-type]
