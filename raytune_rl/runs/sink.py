"""Records a run while it is in progress: in the tables, the driver's state, the agent's checkpoint, and on the screen.

The order matters. Before a host is told to save, everything that its checkpoint builds on is on the disk. So whatever
is killed, for a checkpoint after segment ``s`` the rows and the controller's state of earlier segments always exist.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from raytune_rl.controller.controller import Controller
from raytune_rl.progress import Progress
from raytune_rl.records import Step
from raytune_rl.rundir.tables import TableWriter
from raytune_rl.tracking import Tracker
from raytune_rl.tune.storage import StateStore

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 2.0
"""Readers of a run in progress see its rows after at most this delay."""


@dataclass
class Counts:
    """Counts for ``summary.json`` that cannot be taken from the tables, which only have the last attempt at a
    segment."""

    failures: int = 0
    restarts: int = 0

    def take(self, step: Step) -> None:
        """Add one step."""
        failed = [d for r, d in zip(step.reports, step.decisions, strict=True) if r.status != "ok"]
        self.failures += len(failed)
        self.restarts += sum(not decision.stop for decision in failed)


class RunSink:
    """The scheduler's sink for a run with a run directory.

    ``wall_s`` counts from the start of the first segment to the last report, over all sessions of a run.

    Args:
        controller: its state is saved.
        tables: the run's tables.
        state: stores the driver's state.
        keeps_controller: whether the driver's state includes the controller's. Not needed if Tune stores that.
        agent_directory: local path of the agent's checkpoint; ``None`` = no checkpoint.
        progress: the display.
        tracker: passes the members on to experiment trackers.
        seconds: the wall time after which everything stops; ``None`` = no limit.
        clock: returns seconds, monotonic.
    """

    def __init__(
        self,
        controller: Controller,
        tables: TableWriter,
        state: StateStore,
        *,
        keeps_controller: bool = True,
        agent_directory: str | None,
        progress: Progress,
        tracker: Tracker | None = None,
        seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.counts = Counts()
        self.wall_s = 0.0
        self._before = 0.0
        self._began: float | None = None
        self._seconds = seconds
        self._controller = controller
        self._tables = tables
        self._state = state
        self._keeps_controller = keeps_controller
        self._agent_directory = agent_directory
        self._progress = progress
        self._tracker = tracker
        self._clock = clock
        self._flushed = clock()

    def began(self, ago: float) -> None:
        """Note that the first segment began ``ago`` seconds ago. For drivers that record segments some time after their
        end."""
        if self._began is None:
            self._began = self._clock() - ago

    def record(self, step: Step) -> None:
        """Record one step of the controller."""
        self.counts.take(step)
        self._tables.write(step)
        self._progress.update(step)
        if self._tracker is not None:
            self._tracker.record(step)
        self._take_time(step)
        if self._clock() - self._flushed >= FLUSH_SECONDS:
            self._flush_tables()

    def flush(self) -> bool:
        """Write the tables and the controller's state to the disk; the agent's checkpoint follows in the background.

        Returns False if that fails. Then no host may save, or its checkpoint could be ahead of the tables.
        """
        if not self._flush_tables():
            return False
        kept = {"counts": vars(self.counts), "wall_s": self.wall_s}
        if self._keeps_controller:
            kept["controller"] = self._controller.get_state(sparse=True)
        saved = self._state.save(kept)
        if self._agent_directory is not None:
            self._controller.policy.save(self._agent_directory, wait=False)
        return saved

    def restore(self) -> bool:
        """Restore the state of an interrupted run, including the agent's. Returns False if there is none."""
        saved = self._state.load()
        if saved is None:
            return False
        self.counts = Counts(**saved["counts"])
        self._before = self.wall_s = saved["wall_s"]
        if not self._keeps_controller:
            return True
        if self._agent_directory is not None and os.path.isdir(self._agent_directory):
            try:
                self._controller.policy.restore(self._agent_directory)
            except ValueError as error:
                logger.warning("the agent begins anew: %s", error)
        self._controller.set_state(saved["controller"])
        return True

    def _take_time(self, step: Step) -> None:
        now = self._clock()
        if self._began is None:
            by_trial: dict[str, float] = {}
            for report in step.reports:
                by_trial[report.trial_id] = by_trial.get(report.trial_id, 0.0) + report.seconds
            self._began = now - max(by_trial.values(), default=0.0)
        self.wall_s = self._before + now - self._began
        if self._seconds is not None and self.wall_s >= self._seconds:
            self._controller.stop_all(f"the budget of {self._seconds:g} seconds is used up")

    def _flush_tables(self) -> bool:
        self._flushed = self._clock()
        return self._tables.flush()
