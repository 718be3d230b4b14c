"""Where the members of a synchronous run wait for each other: nobody trains on before all have finished a segment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray.tune.experiment import Trial

from raytune_rl.controller.controller import Controller
from raytune_rl.records import Decision, Report, Step
from raytune_rl.tune.adapter import resume_training
from raytune_rl.tune.trials import adapter
from raytune_rl.tune.trials.changes import CONTINUE, NOOP, PAUSE, Changes
from raytune_rl.tune.trials.members import Members
from raytune_rl.tune.trials.turns import Turns


class Barrier:
    """The barrier of one experiment.

    Args:
        controller: knows in which segments weights may be copied.
        members: those that the barrier waits for, as long as they are alive.
        turns: knows whether a member has to wait for a slot.
        changes: carries the decisions out.
        decide: called with the reports of all members.
    """

    def __init__(
        self,
        controller: Controller,
        members: Members,
        turns: Turns,
        changes: Changes,
        *,
        decide: Callable[[Sequence[Report]], Step],
    ) -> None:
        self._controller = controller
        self._members = members
        self._turns = turns
        self._changes = changes
        self._decide = decide
        self._arrived: dict[int, Report] = {}

    def holds(self, member: int) -> bool:
        """Whether ``member`` waits here."""
        return member in self._arrived

    def forget(self, member: int) -> None:
        """The member's actor is gone: if the member comes back, it has to arrive again."""
        self._arrived.pop(member, None)

    def arrive(self, tune_controller: Any, trial: Trial, report: Report, result: Mapping[str, Any]) -> str:
        """A member has finished its segment and waits: in its actor, or paused if others need the slot to get here.

        Returns the answer for Tune.
        """
        self._arrived[report.member] = report
        if self._needs_slot(tune_controller):
            return PAUSE
        if self._changes.abilities.in_place and self._controller.actions.copy_allowed(report.segment + 1):
            adapter.save(tune_controller, trial, result)  # it may be the member's best
        return NOOP

    def settle(self, tune_controller: Any) -> bool:
        """Decide for all, once every member that is alive has arrived and is not being saved. Returns whether it has.

        To be called in every turn of Tune's loop. Members that die or finish are not waited for.
        """
        if not self._arrived:
            return False
        alive = [(member, trial) for member, trial in self._members if not trial.is_finished()]
        if any(member not in self._arrived for member, _ in alive):
            self._make_room(tune_controller)
            return False
        if any(trial.is_saving for _, trial in alive):
            return False
        reports = [self._arrived[member] for member, _ in alive]
        self._arrived.clear()
        continuing: list[tuple[Trial, Decision]] = []
        for (_, trial), decision in zip(alive, self._decide(reports).decisions, strict=True):
            self._members.note_checkpoint(trial)
            if decision.stop:
                tune_controller.stop_trial(trial)
            else:
                continuing.append((trial, decision))
        # Prepare all copies before anybody is changed: everyone takes what the donors had at the barrier.
        prepared = [
            (trial, decision, self._prepare(tune_controller, trial, decision)) for trial, decision in continuing
        ]
        for trial, decision, weights in prepared:
            self._apply(tune_controller, trial, decision, weights)
        return True

    def _needs_slot(self, tune_controller: Any) -> bool:
        """Whether a member that has not arrived waits for a slot."""
        waiting = any(True for _ in self._turns.waiting(tune_controller))
        return waiting and self._turns.all_taken(tune_controller)

    def _make_room(self, tune_controller: Any) -> None:
        """If a member needs a slot to get here, pause one that has arrived."""
        parked = (
            trial
            for member, trial in self._members
            if member in self._arrived and trial.status == Trial.RUNNING and not trial.is_saving
        )
        first = next(parked, None)
        if first is not None and self._needs_slot(tune_controller):
            adapter.pause_parked(tune_controller, first)

    def _prepare(self, tune_controller: Any, trial: Trial, decision: Decision) -> Any:
        at, stays = self._members.at(trial, trial.last_result), trial.status == Trial.RUNNING
        return self._changes.prepare(tune_controller, trial, decision, at=at, stays=stays)

    def _apply(self, tune_controller: Any, trial: Trial, decision: Decision, weights: Any) -> None:
        stays = trial.status == Trial.RUNNING
        answer = self._changes.apply(tune_controller, trial, decision, trial.last_result, weights, stays=stays)
        if stays and answer == CONTINUE:
            resume_training(tune_controller, trial)
        elif stays and answer == PAUSE:
            adapter.pause_parked(tune_controller, trial)
