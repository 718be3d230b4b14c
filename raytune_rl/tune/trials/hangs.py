"""Finds trials that hang: at work, but without a report for too long.

The driver cannot look into an actor while a function runs there, so it measures from outside. Only time during which
the driver itself was awake counts, so a blocked driver or a suspended machine triggers no timeout.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ray.tune.experiment import Trial

from raytune_rl.tune.trials.adapter import is_at_work

CHECK_PERIOD = 0.5
"""Seconds between two checks."""
MAX_COUNTED = 2.0
"""The most seconds that count between two checks: after a longer gap there may be results that nobody has read yet."""


class HangDetector:
    """Measures how long each running trial has not reported.

    Args:
        timeout: seconds without a report after which a trial that is at work has hung; ``None`` = never.
        clock: seconds, monotonic.
    """

    def __init__(self, timeout: float | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.timeout = timeout
        self._clock = clock
        self._checked = clock()
        self._seconds_silent: dict[str, float] = {}

    def reported(self, trial: Trial) -> None:
        """The trial has reported."""
        self._seconds_silent.pop(trial.trial_id, None)

    def hung(self, tune_controller: Any) -> list[Trial]:
        """The trials that have hung, each once. To be called in every turn of Tune's loop."""
        now = self._clock()
        passed = now - self._checked
        if self.timeout is None or passed < CHECK_PERIOD:
            return []
        self._checked = now
        trials = [t for t in tune_controller.get_trials() if t.status == Trial.RUNNING]
        working = {t.trial_id: t for t in trials if is_at_work(tune_controller, t)}
        self._seconds_silent = {
            name: self._seconds_silent.get(name, 0.0) + min(passed, MAX_COUNTED) for name in working
        }
        hung = [trial for name, trial in working.items() if self._seconds_silent[name] > self.timeout]
        for trial in hung:
            self.reported(trial)
        return hung
