"""Lets trials take turns where there are more of them than slots, so that all advance together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ray.tune.experiment import Trial

from raytune_rl.tune.adapter import resume_training
from raytune_rl.tune.trials.adapter import is_being_handed_an_actor, pause_parked, reuses_actors
from raytune_rl.tune.trials.members import Members
from raytune_rl.tune.trials.slots import Slots

LEAD = 4
"""Segments that a member may be ahead of one that is about to get a free slot, or, if each turn costs the start of a
process, of one that waits for its slot."""


class Turns:
    """Decides which trial gives its slot to which.

    Args:
        members: know how far each has come.
        is_held: whether a trial waits for something other than a slot.
        slots: know how many trials can run.
    """

    def __init__(self, members: Members, *, is_held: Callable[[Trial], bool], slots: Slots | None = None) -> None:
        self._members = members
        self._is_held = is_held
        self._slots = slots or Slots()
        self._resting: list[Trial] = []

    def waiting(self, tune_controller: Any) -> Iterator[Trial]:
        """The trials that need a slot and nothing else."""
        for trial in tune_controller.get_trials():
            if trial.status in (Trial.PENDING, Trial.PAUSED) and not self._is_held(trial):
                yield trial

    def next(self, tune_controller: Any) -> Trial | None:
        """The waiting trial that has trained least, of those that are not being given an actor already."""
        waiting = [t for t in self.waiting(tune_controller) if not is_being_handed_an_actor(tune_controller, t)]
        return min(waiting, key=self._members.turn, default=None)

    def all_taken(self, tune_controller: Any) -> bool:
        """Whether as many trials run as can run."""
        return self._slots.all_taken(tune_controller.get_trials())

    def gives_way(self, tune_controller: Any, trial: Trial) -> bool:
        """Whether another trial that has trained less waits for the slot."""
        trials = tune_controller.get_trials()
        own, _ = self._members.turn(trial)  # the segment that it has just finished
        ahead = 0 if reuses_actors(tune_controller) else LEAD
        behind = any(
            other is not trial
            and other.status in (Trial.PENDING, Trial.PAUSED)
            and self._members.turn(other)[0] + ahead <= own
            for other in trials
        )
        return behind and self._slots.all_taken(trials)

    def rests(self, tune_controller: Any, trial: Trial) -> bool:
        """Whether a trial that could train on waits, in its actor, for one that is about to get a free slot.

        Segments may take milliseconds, and starting an actor seconds: without this it would finish before the others
        begin.
        """
        rests = self._is_far_ahead(tune_controller, trial)
        if rests:
            self._resting.append(trial)
        return rests

    def settle(self, tune_controller: Any) -> None:
        """Let trials that have rested long enough train on or give way. To be called in every turn of Tune's loop."""
        resting, self._resting = self._resting, []
        for trial in resting:
            if trial.status != Trial.RUNNING:
                continue
            if trial.is_saving or self._is_far_ahead(tune_controller, trial):
                self._resting.append(trial)
            elif self.gives_way(tune_controller, trial):
                pause_parked(tune_controller, trial)
            else:
                resume_training(tune_controller, trial)

    def _is_far_ahead(self, tune_controller: Any, trial: Trial) -> bool:
        own, _ = self._members.turn(trial)
        far = any(self._members.turn(other)[0] + LEAD <= own for other in self.waiting(tune_controller))
        return far and not self.all_taken(tune_controller)
