"""Finds trials that hang: at work, and without a word for too long.

Nothing can look into a function's actor while the function runs, so the driver watches from outside. It counts the time
that it has itself been awake in, so that neither a driver that was held up nor a suspended machine condemns anybody.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ray.tune.experiment import Trial

from raytune_rl.tune.trials.adapter import is_at_work

LOOK = 0.5
"""Seconds between two looks."""
LAG = 2.0
"""The most seconds that count between two looks; results that have come meanwhile may not have been read."""


class Silence:
    """How long each running trial has been silent.

    Args:
        timeout: seconds after which one that is at work counts as hung; ``None`` = never.
        clock: seconds, monotonic.
    """

    def __init__(self, timeout: float | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.timeout = timeout
        self._clock = clock
        self._looked = clock()
        self._silent: dict[str, float] = {}

    def heard(self, trial: Trial) -> None:
        """The trial has reported."""
        self._silent.pop(trial.trial_id, None)

    def hung(self, tune_controller: Any) -> list[Trial]:
        """The trials that hang. To be called in every turn of Tune's loop."""
        now = self._clock()
        passed = now - self._looked
        if self.timeout is None or passed < LOOK:
            return []
        self._looked = now
        trials = [t for t in tune_controller.get_trials() if t.status == Trial.RUNNING]
        working = {t.trial_id: t for t in trials if is_at_work(tune_controller, t)}
        self._silent = {name: self._silent.get(name, 0.0) + min(passed, LAG) for name in working}
        hung = [trial for name, trial in working.items() if self._silent[name] > self.timeout]
        for trial in hung:
            self.heard(trial)
        return hung
