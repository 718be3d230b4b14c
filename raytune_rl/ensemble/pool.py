"""What an ensemble is chosen from: states of a run and soups of them, with what each predicts and how long it takes."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import nn

from raytune_rl.combining.losses import Array, Evidence, Floats
from raytune_rl.ensemble.candidates import family_soups, kinship, mixable
from raytune_rl.ensemble.kept import Kept, Place
from raytune_rl.ensemble.settings import Ensemble
from raytune_rl.ensemble.validation import EXAMPLE_ROWS, Reading, ValidationSplit
from raytune_rl.population.evaluation import classes_first
from raytune_rl.population.splits import CPU
from raytune_rl.population.torch_task import TorchTask

logger = logging.getLogger(__name__)

LATENCY_REPEATS = 15


class NoEnsemble(ValueError):
    """There is none to be made of this run: one sentence why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The candidates.

    Attributes:
        settings: of the ensemble.
        validation: where they are judged.
        states: that were kept, and soups after them.
        ingredients: of soups, by their numbers.
        evidence: of all of them.
        reading: of their outputs.
        seconds: that each takes for one row on its own, shape (candidates,); 0 where there is no limit.
    """

    settings: Ensemble
    validation: ValidationSplit
    states: Sequence[Kept]
    ingredients: Mapping[int, tuple[Place, ...]]
    evidence: Evidence
    reading: Reading
    seconds: Floats

    @classmethod
    def of(cls, settings: Ensemble, task: TorchTask, states: Sequence[Kept]) -> Pool:
        """Those of ``states`` that there is time for, the first ones."""
        if not states:
            raise NoEnsemble("the run has kept no states")
        validation = ValidationSplit(task, settings.kind)
        reading = _reading(validation, states[0])
        parts: list[Evidence] = []
        began = time.monotonic()
        for state in states:
            parts.append(_evidence(validation, state, reading))
            spent = time.monotonic() - began
            if spent * (len(parts) + 1) / len(parts) > settings.seconds:
                break
        if len(parts) < len(states):
            logger.info(
                "the ensemble chooses from %d of %d states: predicting with more would take longer than "
                "ensemble.seconds = %g",
                len(parts),
                len(states),
                settings.seconds,
            )
        judged = list(states[: len(parts)])
        return cls(
            settings=settings,
            validation=validation,
            states=judged,
            ingredients={},
            evidence=Evidence.stack(parts),
            reading=reading,
            seconds=_seconds(validation, judged, settings),
        )

    def with_soups(self, segments: pd.DataFrame, deadline: float) -> Pool:
        """And averages of relatives that are better than all that they average.

        Args:
            segments: the run's table, for who has weights from whom.
            deadline: on the monotonic clock; what has not been tried until then is left out.
        """
        validation = self.validation
        related = kinship(segments, [state.place for state in self.states])

        def same(one: Kept, other: Kept) -> bool:
            return related(one.place, other.place) and mixable(one.state, other.state, validation.task)

        def judge(soup: Kept) -> float:
            return float(_evidence(validation, soup, self.reading).losses()[0])

        soups = family_soups(self.states, self.losses.tolist(), related=same, judge=judge, deadline=deadline)
        states = [soup for soup, _ in soups]
        return replace(
            self,
            states=[*self.states, *states],
            ingredients={len(self.states) + index: parts for index, (_, parts) in enumerate(soups)},
            evidence=Evidence.stack([self.evidence, *(_evidence(validation, soup, self.reading) for soup in states)]),
            seconds=np.concatenate([self.seconds, _seconds(validation, states, self.settings)]),
        )

    @property
    def losses(self) -> Floats:
        """Of each alone, on validation, shape (candidates,)."""
        return self.evidence.losses()

    def weights(self, rng: np.random.Generator, *, size: int, seconds: float | None = None) -> Floats:
        """The aggregator's choice, shape (candidates,). Both limits are one budget: a candidate costs the larger of the
        two shares that it uses.

        Args:
            size: members at most.
            seconds: that they may take together, by their own times.
        """
        costs = np.full(len(self.states), 1.0 / size)
        if seconds is not None:
            costs = np.maximum(costs, self.seconds / seconds)
        eligible = self._eligible()
        weights = np.zeros(len(costs))
        try:
            weights[eligible] = self.settings.aggregator.weights(
                self.evidence.take(members=eligible), rng, costs=costs[eligible], budget=1.0
            )
        except ValueError as error:
            raise NoEnsemble(str(error)) from None
        return weights

    def _eligible(self) -> Array:
        """The candidates that the aggregator is shown, by their numbers: to some only the best state of each member."""
        if not getattr(self.settings.aggregator, "one_per_member", False):
            return np.arange(len(self.states))
        best: dict[int, int] = {}
        for index in np.argsort(self.losses, kind="stable").tolist():
            best.setdefault(self.states[index].member, index)
        return np.array(sorted(best.values()))


@torch.no_grad()
def seconds_per_row(model: nn.Module, row: torch.Tensor) -> float:
    """What a call with one row, (1, ...), takes: the median of some, the first not counted."""
    model(row)
    times = []
    for _ in range(LATENCY_REPEATS):
        began = time.perf_counter()
        model(row)
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def _seconds(validation: ValidationSplit, states: Sequence[Kept], settings: Ensemble) -> Floats:
    if settings.latency is None:
        return np.zeros(len(states))
    row = validation.example[:1]
    return np.array([seconds_per_row(validation.network(kept.state), row) for kept in states])


def _evidence(validation: ValidationSplit, kept: Kept, reading: Reading) -> Evidence:
    return validation.evidence(validation.outputs(validation.network(kept.state)), reading)


def _reading(validation: ValidationSplit, kept: Kept) -> Reading:
    inputs, targets = validation.split.rows(slice(0, EXAMPLE_ROWS), CPU)
    with torch.no_grad():
        outputs = validation.network(kept.state)(inputs)
    reading = validation.reading(outputs, targets)
    if reading is not None:
        return reading
    if not targets.is_floating_point() and outputs.shape[:-1] == targets.shape and not classes_first(outputs, targets):
        raise NoEnsemble(
            f"the outputs {tuple(outputs.shape)} have their classes or vocabulary last; they must be dimension 1, "
            "as for nn.CrossEntropyLoss: transpose them in the network"
        )
    raise NoEnsemble(
        "loss and data do not tell how outputs are to be averaged; say Ensemble(kind=...), or None for no ensemble"
    )
