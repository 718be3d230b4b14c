"""Carries a decision out on a trial, by changing it where it runs or by pausing it.

===========================  =======================================================================================
case                         what happens
===========================  =======================================================================================
nothing changes              the trial trains on
class with ``reset_config``  changed in its actor, between two calls of ``train``
function                     at a checkpoint, reset and restored in its own actor, as Tune does with reused actors
everything else              paused, and restored with its new configuration when it gets a slot
another trial needs the slot paused in any case
===========================  =======================================================================================

In the first three cases the trial keeps its slot. While a change takes place, the answer to Tune is ``NOOP``, which
parks the trial.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from ray.exceptions import RayActorError
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from raytune_rl.records import Decision
from raytune_rl.tune.adapter import call_in_place, resume_training
from raytune_rl.tune.trials import adapter
from raytune_rl.tune.trials.actor import Outcome, reconfigure
from raytune_rl.tune.trials.adapter import Abilities
from raytune_rl.tune.trials.copies import Copies
from raytune_rl.tune.trials.members import Members
from raytune_rl.tune.trials.report import seconds_of, set_values

logger = logging.getLogger(__name__)

CONTINUE, PAUSE, NOOP = str(TrialScheduler.CONTINUE), str(TrialScheduler.PAUSE), str(TrialScheduler.NOOP)


class Changes:
    """Carries out the decisions of one experiment.

    Args:
        members, copies: the population.
        abilities: what can be done with its trials.
        changed: called when a trial's configuration or weights have been changed.
    """

    def __init__(self, members: Members, copies: Copies, abilities: Abilities, *, changed: Callable[[], None]) -> None:
        self.abilities = abilities
        self._members = members
        self._copies = copies
        self._changed = changed
        self._resets: set[int] = set()
        self._changed_trials: list[Trial] = []

    def prepare(self, tune_controller: Any, trial: Trial, decision: Decision, *, at: int, stays: bool) -> Any:
        """Get the weights that ``decision`` takes, before any of the donors changes.

        Returns what ``apply`` needs: the weights for a change in place; ``None`` if there are none to take, or if the
        trial will find them in storage.

        Args:
            at: the trial's report count.
            stays: the trial keeps its slot.
        """
        if decision.source.kind == "keep" or not self.abilities.saves:
            return None
        weights = self._copies.weights(decision.source) if stays and self.abilities.in_place else None
        if weights is None:
            self._copies.note(tune_controller, decision, at, by_class=not self.abilities.function)
        return weights

    def apply(
        self,
        tune_controller: Any,
        trial: Trial,
        decision: Decision,
        result: Mapping[str, Any],
        weights: Any,
        *,
        stays: bool,
    ) -> str:
        """Carry ``decision`` out on a trial that has just reported ``result``.

        Returns the answer for Tune, if the trial is running (a paused one comes back by itself).
        """
        config = set_values(trial.config, decision.hyperparameters)
        waits_for_copy = self._copies.awaited_by(decision.member)
        if config == trial.config and weights is None and not waits_for_copy:
            self._open(trial, result, decision)
            return CONTINUE if stays else PAUSE
        if stays and self.abilities.in_place and not waits_for_copy:
            self._change_in_place(tune_controller, trial, decision, config, weights, result)
            return NOOP
        if not self.abilities.saves:
            self._open(trial, result, None)
            return CONTINUE
        self._open(trial, result, decision)
        trial.set_config(config)
        self._changed()
        if stays and self.abilities.restarts:
            self._resets.add(decision.member)
            return NOOP
        return PAUSE

    def settle(self, tune_controller: Any) -> None:
        """Do what had to wait for checkpoints. To be called in every turn of Tune's loop."""
        changed, self._changed_trials = self._changed_trials, []
        for trial in changed:
            if trial.status == Trial.RUNNING:
                self._train_on(tune_controller, trial)
        if self._copies.settle(parked=self._resets):
            self._changed()
        for member in sorted(self._resets):
            trial = self._members.trial(member)
            if trial is not None and not trial.is_saving and not self._copies.awaited_by(member):
                self._resets.remove(member)
                adapter.restart_in_place(tune_controller, trial)

    def forget(self, member: int) -> None:
        """The member's actor is gone."""
        self._resets.discard(member)

    def keep_on(self, trial: Trial, result: Mapping[str, Any]) -> None:
        """Open the next segment at ``result``, with everything as in the one before."""
        self._open(trial, result, None)

    def _open(self, trial: Trial, result: Mapping[str, Any], decision: Decision | None) -> None:
        """Open the trial's next segment at ``result``; without a decision, like the one before."""
        values = decision.hyperparameters if decision else None
        at = self._members.at(trial, result)
        self._members.track(trial).open(at=at, seconds=seconds_of(result), values=values)

    def _change_in_place(
        self,
        tune_controller: Any,
        trial: Trial,
        decision: Decision,
        config: dict[str, Any],
        weights: Any,
        result: Mapping[str, Any],
    ) -> None:
        def finished(trial: Trial, outcome: Outcome) -> None:
            if outcome.broken:
                adapter.fail(tune_controller, trial, outcome.error)
                return
            self._open(trial, result, decision if outcome.done else None)
            if outcome.done:
                trial.set_config(config)
                self._members.track(trial).amend(**self._copies.origin(decision.source))
                if weights is not None:
                    logger.info("member %d takes the weights of member %s", decision.member, decision.source.member)
                self._changed()
            else:
                self._refused(trial, outcome)
            self._train_on(tune_controller, trial)

        def failed(trial: Trial, error: Exception) -> None:
            if not isinstance(error, RayActorError):  # Tune deals with a dead actor
                finished(trial, Outcome(unsupported=True, error=str(error)))

        arguments = (reconfigure, config, weights)
        call_in_place(tune_controller, trial, "__ray_call__", *arguments, on_result=finished, on_error=failed)

    def _train_on(self, tune_controller: Any, trial: Trial) -> None:
        """Let a trial that has been changed in place train on, but not while it is being saved: until Tune has seen the
        end of that, it keeps the ``NOOP`` of the last report, and would apply it to the next report as well."""
        if trial.is_saving:
            self._changed_trials.append(trial)
        else:
            resume_training(tune_controller, trial)

    def _refused(self, trial: Trial, outcome: Outcome) -> None:
        if outcome.unsupported:
            self.abilities = self.abilities.without_in_place()
            why = outcome.error or "reset_config returned False"
            logger.warning("%s cannot be changed in place (%s): trials are paused instead", trial.trainable_name, why)
        else:
            logger.warning("trial %s keeps its weights: %s", trial.trial_id, outcome.error)
