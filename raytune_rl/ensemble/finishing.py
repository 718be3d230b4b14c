"""The end of a run: what it delivers is chosen, its ensemble is built, both are judged once on the test split.

Nothing here may spoil a run that has trained well: what goes wrong is a line in the log.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd

from raytune_rl.combining.losses import Kind
from raytune_rl.ensemble.kept import Kept
from raytune_rl.ensemble.settings import Ensemble
from raytune_rl.population.torch_task import TorchTask
from raytune_rl.records import Mode

if TYPE_CHECKING:
    from raytune_rl.ensemble.building import Built
    from raytune_rl.ensemble.delivery import Delivered

logger = logging.getLogger(__name__)
T = TypeVar("T")

MOST_GIB = 2.0
"""Run directories with more state than this deliver their best checkpoint as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """An ensemble and what it is worth.

    Attributes:
        value: of the experiment's metric on validation.
        test: metrics on the test split.
    """

    built: Built
    task: TorchTask
    value: float
    test: Mapping[str, float]

    @property
    def metrics(self) -> dict[str, float]:
        """On validation and test."""
        return {**self.built.metrics, **self.test}

    def summary(self, path: str | None) -> dict[str, Any]:
        """The part ``ensemble`` of ``summary.json``: ``members[i]`` has ``weights[i]``."""
        return {
            "value": self.value,
            "members": [
                {"member": one.kept.member, "segment": one.kept.segment, "origin": one.kept.origin}
                for one in self.built.members
            ],
            "weights": [one.weight for one in self.built.members],
            "metrics": self.metrics,
            "path": path,
        }

    def save(
        self, folder: Path, segments: pd.DataFrame, *, name: str, directory: str, best: Mapping[str, float]
    ) -> None:
        """Write ``ensemble/`` into ``folder``; see ``model_card`` for the others."""
        from raytune_rl.ensemble.card import model_card
        from raytune_rl.ensemble.saving import save

        card = model_card(self.built, self.task, segments, name=name, directory=directory, test=self.test, best=best)
        save(self.built, self.task.network, folder, card)


def delivery_of(
    candidate: object,
    states: Callable[[float], Sequence[Kept]],
    *,
    metric: str,
    mode: Mode,
    kind: Kind | None = None,
    plain: bool = False,
) -> Delivered | None:
    """What a population that has been trained delivers instead of its best checkpoint; None where that is better, or
    where the candidate is no torch task.

    Args:
        states: reads those that were kept, at most so many bytes.
        metric, mode: the experiment's.
        kind: of the task, where the user has declared one (``Ensemble.kind``).
        plain: give the best checkpoint, too, where it is the best as it is.
    """
    if not isinstance(candidate, TorchTask):
        return None
    from raytune_rl.ensemble.delivery import delivered_model

    return spared(
        "the run delivers its best checkpoint as it is",
        lambda: delivered_model(candidate, states(MOST_GIB * 2**30), metric=metric, mode=mode, kind=kind, plain=plain),
    )


def judged_ensemble(
    settings: Ensemble | None,
    candidate: object,
    states: Callable[[float], Sequence[Kept]],
    segments: pd.DataFrame,
    *,
    metric: str,
    mode: Mode,
    seed: int,
) -> Judged | None:
    """The ensemble of a population that has been trained; None, with a line in the log, where there is none to be had.

    Args:
        settings: None = none is wanted.
        candidate: of the experiment; only torch tasks can be combined.
        states: reads those that were kept, at most so many bytes.
        segments: the run's table.
        metric, mode, seed: the experiment's.
    """
    if settings is None or not isinstance(candidate, TorchTask):
        return None
    from raytune_rl.ensemble.building import build
    from raytune_rl.ensemble.validation import on_test_split

    def judged() -> Judged:
        kept = states(settings.max_gib * 2**30)
        built = build(settings, candidate, kept, segments, metric=metric, mode=mode, seed=seed)
        value = built.metrics.get(metric, math.nan)
        test = on_test_split(built.model, candidate, built.reading)
        return Judged(built=built, task=candidate, value=value, test=test)

    return spared("no ensemble of this run", judged)


def spared(without: str, make: Callable[[], T]) -> T | None:
    """What ``make`` makes; if it raises, the log says what the run does ``without`` it."""
    try:
        return make()
    except ValueError as error:
        logger.warning("%s: %s", without, error)
    except Exception as error:  # a user's network or metric may raise anything
        logger.warning("%s (%s: %s)", without, type(error).__name__, error)
        logger.debug("its traceback", exc_info=True)
    return None
