"""Warnings to the user about the Trainable, each given once."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ray.tune.experiment import Trial

from raytune_rl.records import Report, Value
from raytune_rl.tune.trials import adapter
from raytune_rl.tune.trials.adapter import Abilities
from raytune_rl.tune.trials.report import same

logger = logging.getLogger(__name__)


class Remarks:
    """The warnings of one experiment."""

    def __init__(self) -> None:
        self._made: set[str] = set()

    def abilities(self, tune_controller: Any, abilities: Abilities) -> None:
        """Warn of what cannot be done with the trials, before the first one starts."""
        if not abilities.saves:
            logger.warning("the Trainable has no save_checkpoint: no weights are copied, and trials cannot take turns")
        if not adapter.reuses_actors(tune_controller):
            logger.warning("set reuse_actors=True in TuneConfig: without it each pause costs the start of a process")

    def compare(self, report: Report, asked: Mapping[str, Value]) -> None:
        """Warn when a trial does not train with the values that were decided (ray issue 62173)."""
        for name, value in report.hyperparameters.items():
            if name in asked and not same(value, asked[name]) and self._is_new(name):
                logger.warning(
                    "trial %s trains with %s=%r where %r was decided: its reset_config or its restore overwrites it",
                    *(report.trial_id, name, value, asked[name]),
                )

    def no_checkpoints(self, trial: Trial) -> None:
        """Warn that a function gets no decisions, or fewer than it has segments."""
        if not self._is_new("no checkpoints"):
            return
        if adapter.latest(trial) is None:
            logger.warning(
                "the function reports no checkpoints, so it cannot be interrupted: it gets decisions at its start only "
                "(give tune.report a checkpoint to have it steered)"
            )
        else:
            logger.warning("the function's checkpoints are far apart: segments between them bring no decisions")

    def _is_new(self, what: str) -> bool:
        is_new = what not in self._made
        self._made.add(what)
        return is_new
