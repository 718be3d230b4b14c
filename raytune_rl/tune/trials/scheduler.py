"""Carries reports and decisions between Tune's trials and the controller where every trial is one member.

It only translates: a result becomes a ``Report``, and a ``Decision`` becomes something that Tune can do. There are two
ways to do it. *In place*: a running class Trainable is changed inside its actor and trains on. *By pause*: the trial
saves, gives up its slot and comes back with another configuration, perhaps from another trial's checkpoint. Ray's own
PBT works by pause. It is the only way where the population takes turns on fewer slots.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.utils import flatten_dict

from raytune_rl.controller.controller import Controller
from raytune_rl.records import Decision, Report, Step, Value
from raytune_rl.tune.actor_errors import cause
from raytune_rl.tune.trials import adapter
from raytune_rl.tune.trials.adapter import Abilities
from raytune_rl.tune.trials.barrier import Barrier
from raytune_rl.tune.trials.changes import Changes
from raytune_rl.tune.trials.copies import Copies
from raytune_rl.tune.trials.hangs import HangDetector
from raytune_rl.tune.trials.members import Members
from raytune_rl.tune.trials.remarks import Remarks
from raytune_rl.tune.trials.report import ITERATION, is_out_of_budget, make_report
from raytune_rl.tune.trials.state import TrialState
from raytune_rl.tune.trials.turns import Turns
from raytune_rl.tune.trials.unsaved import UnsavedSegments

logger = logging.getLogger(__name__)


class OneMemberPerTrialScheduler(FIFOScheduler):
    """The scheduler behind ``MetaAgentScheduler``: every trial is one member.

    Args:
        controller: decides.
        segment_length: the least number of reports between two decisions (a function has to reach a checkpoint).
        synchronous: let all members wait until each has finished its segment, and decide for all at once.
        horizon: reports after which Tune stops a trial, if known; corrects ``controller.segments`` if a function's
            checkpoints turn out to be further apart than ``segment_length``.
        state: where to keep what a restored run needs; ``None`` keeps nothing.
        record: called with each step of the controller.
        failed: called when a trial has failed, with its member, the reason, and whether it starts again.
        timeout: seconds without a report after which a running trial has hung, and fails; ``None`` = never.
        strict: a report without the metric is the user's mistake, and ends the run.
        starts: starting values of member ``n``, for the hyperparameters that its trial's config lacks.
        population: number of members, kept with the state (a restored Tuner does not know its ``num_samples``).

    Attributes:
        latencies: seconds that decisions took, the newest ones.
    """

    _supports_buffered_results = False

    def __init__(
        self,
        controller: Controller,
        *,
        segment_length: int = 1,
        synchronous: bool = False,
        horizon: int | None = None,
        state: TrialState | None = None,
        record: Callable[[Step], None] | None = None,
        failed: Callable[[int, str, bool], None] | None = None,
        timeout: float | None = None,
        strict: bool = False,
        starts: Callable[[int], Mapping[str, Value]] | None = None,
        population: int = 1,
    ) -> None:
        super().__init__()
        self._metric = controller.metric
        self.controller = controller
        self.segment_length = segment_length
        self.synchronous = synchronous
        self.latencies: deque[float] = deque(maxlen=10_000)
        self._population = population
        self._horizon = horizon
        self._state = state
        self._record = record
        self._failed = failed
        self._strict = strict
        self._hangs = HangDetector(timeout)
        self._unsaved = UnsavedSegments()
        self._remarks = Remarks()
        self._members = Members(controller, segment_length=segment_length, starts=starts)
        self._copies = Copies(controller, self._members)
        self._turns = Turns(self._members, is_held=self._is_held)
        self._changes = Changes(self._members, self._copies, Abilities(), changed=lambda: self._save(changed=True))
        self._barrier = Barrier(controller, self._members, self._turns, self._changes, decide=self._step)
        self._added = False
        self._closed = False

    # -- trials come and go --------------------------------------------------------------------------------------------

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        if not self._added:
            self._added = True
            self._changes.abilities = Abilities.of(tune_controller, trial)
            if self.synchronous and not self._changes.abilities.saves:
                raise ValueError("synchronous=True pauses trials: the Trainable needs save_ and load_checkpoint.")
            self._remarks.abilities(tune_controller, self._changes.abilities)
        if trial.is_finished():
            self._finished_unseen(trial)
        elif trial in self._members:
            member = self._members.member(trial)
            self._forget(member)
            self._copies.forget(member, unless_at=self._members.rejoin(trial))
        else:
            self._members.join(trial)

    def _finished_unseen(self, trial: Trial) -> None:
        """A restored trial that has ended, perhaps after our state was written."""
        if trial not in self._members:
            return
        result = flatten_dict(trial.last_result)
        member = self._members.rejoin_finished(trial, result)
        if trial.status == Trial.TERMINATED:
            self._report_end(trial, result)
        self.controller.drop([member])

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        recovers = adapter.will_recover(trial)
        if self._failed is not None:
            self._failed(self._members.member(trial), cause(trial), recovers)
        if not recovers:
            self._leave(tune_controller, trial)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: Mapping[str, Any]) -> None:
        """Report the trial's last result: Tune skips ``on_trial_result`` for the result that stops a trial."""
        if self._changes.abilities.function and adapter.latest(trial) is None:
            self._remarks.no_checkpoints(trial)
            unsaved = self._unsaved.take(self._members.member(trial))
            earlier = [r for r in unsaved if self._members.at(trial, r) < self._members.at(trial, result)]
            self._report_past(trial, earlier)
        self._report_end(trial, result)
        self._leave(tune_controller, trial)

    def _report_end(self, trial: Trial, result: Mapping[str, Any]) -> None:
        """Report a trial's last result, if it has not been reported."""
        track = self._members.track(trial)
        if self._members.at(trial, result) > max(track.newest.at, track.reported) and self._metric in result:
            self._step([self._report(trial, result, done=not is_out_of_budget(trial, result))])

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        self._leave(tune_controller, trial)

    def _leave(self, tune_controller: Any, trial: Trial) -> None:
        member = self._members.member(trial)
        self._forget(member)
        self._copies.forget(member)
        self.controller.drop([member])
        others = (other for other in tune_controller.get_trials() if other is not trial)
        if all(other.is_finished() for other in others) and adapter.search_is_over(tune_controller):
            self.close()
        else:
            self.controller.learn(wait=False)
            self._save(changed=False)

    def _forget(self, member: int) -> None:
        """The member's actor is gone, and with it everything that waited there."""
        self._barrier.forget(member)
        self._changes.forget(member)
        self._unsaved.take(member)

    def stop(self, reason: str) -> None:
        """Have every member stop at the end of its segment. Segments that are already over are reported first."""
        self._unsaved.given_up = True
        steps = [
            step for member, trial in self._members for step in self._past_steps(trial, self._unsaved.take(member))
        ]
        self.controller.stop_all(reason)
        self._note(steps)

    def close(self) -> None:
        """The experiment is over: save everything and close the agent. May be called again."""
        if self._closed:
            return
        self._closed = True
        try:
            self.controller.learn(wait=self.synchronous)
            if self._state is not None:
                self._state.save_agent(self.controller.policy, force=True)
                self._state.save(self.get_state, changed=True, force=True)
        finally:
            self.controller.policy.close()

    # -- results -------------------------------------------------------------------------------------------------------

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        began = time.perf_counter()
        self._hangs.reported(trial)
        if self._strict and self._metric not in result:
            self._step([self._report(trial, result)])  # the controller sees what is missing
            return str(self.STOP)
        if not self._is_segment_over(trial, result):
            return str(self.CONTINUE)
        if self._changes.abilities.function and not adapter.reports_checkpoint(result):
            return self._wait_for_checkpoint(tune_controller, trial, result)
        self._unsaved.take(self._members.member(trial))
        report = self._report(trial, result)
        if self.synchronous:
            return self._barrier.arrive(tune_controller, trial, report, result)
        (decision,) = self._step([report]).decisions
        answer = self._carry_out(tune_controller, trial, decision, result)
        self.latencies.append(time.perf_counter() - began)
        return answer

    def _is_segment_over(self, trial: Trial, result: Mapping[str, Any]) -> bool:
        """Whether the trial has finished a segment. A function's segment lasts until a checkpoint, if one comes."""
        at, opened_at = self._members.at(trial, result), self._members.track(trial).newest.at
        has_checkpoint = not self._changes.abilities.function or adapter.reports_checkpoint(result)
        if not has_checkpoint:
            opened_at = max(opened_at, self._unsaved.end(self._members.member(trial)))
        length = at - opened_at
        if length < self.segment_length or self._metric not in result:
            return False
        if has_checkpoint:
            if self._horizon is not None and length > self.segment_length:
                self.controller.segments = math.ceil(self._horizon / length)
            self._horizon = None  # the first segment has shown how long segments really are
        return True

    def _wait_for_checkpoint(self, tune_controller: Any, trial: Trial, result: Mapping[str, Any]) -> str:
        """A function has finished a segment without a checkpoint, so it cannot be interrupted now."""
        member, at, track = self._members.member(trial), self._members.at(trial, result), self._members.track(trial)
        budget = self.controller.segments
        left = None if budget is None or adapter.latest(trial) is not None else budget - track.segment
        if not self._unsaved.add(member, at, result, left=left) and not self.controller.stopping:
            return str(self.CONTINUE)
        self._horizon = None
        self._remarks.no_checkpoints(trial)
        decision = self._report_past(trial, self._unsaved.take(member))
        self._save(changed=False)
        if decision is None:
            return str(self.CONTINUE)
        track.reported = at  # after an end, or a failure, the later ones of these segments are not reported any more
        return self._carry_out(tune_controller, trial, decision, result)

    def _report_past(self, trial: Trial, results: Sequence[Mapping[str, Any]]) -> Decision | None:
        """Report segments that ended without a chance to decide anything. Returns the decision about the last one if it
        must be carried out nevertheless: an end, or a restart after a failure."""
        steps = self._past_steps(trial, results)
        self._note(steps)
        last = steps[-1].decisions[0] if steps else None
        return last if last is not None and _changes_anything(last) else None

    def _past_steps(self, trial: Trial, results: Sequence[Mapping[str, Any]]) -> list[Step]:
        """The controller's steps for such segments, up to one after which the trial cannot continue as it was."""
        steps = []
        for result in results:
            steps.append(self.controller.step([self._report(trial, result)], steered=False))
            if _changes_anything(steps[-1].decisions[0]):
                break
            self._changes.keep_on(trial, result)
        return steps

    def _report(self, trial: Trial, result: Mapping[str, Any], *, done: bool = False) -> Report:
        track = self._members.track(trial)
        report = make_report(
            trial,
            result,
            member=self._members.member(trial),
            track=track,
            at=self._members.at(trial, result),
            names=self.controller.space.names,
            metric=self.controller.metric,
            done=done,
        )
        track.reported = report.steps
        self._remarks.compare(report, track.newest.values)
        return report

    def _step(self, reports: Sequence[Report]) -> Step:
        step = self.controller.step(reports)
        self._note([step])
        return step

    def _note(self, steps: Iterable[Step]) -> None:
        """Record steps and let the agent learn from them. To be called when all of them have been made: the recorder
        may find that the time budget is used up, and every later decision would be a stop."""
        for step in steps:
            if self._record is not None:
                self._record(step)
        self.controller.learn(wait=self.synchronous)

    # -- decisions -----------------------------------------------------------------------------------------------------

    def _carry_out(self, tune_controller: Any, trial: Trial, decision: Decision, result: Mapping[str, Any]) -> str:
        """Do what was decided for a running trial. Returns the answer for Tune."""
        if decision.stop:
            return str(self.STOP)
        self._members.note_checkpoint(trial)
        saves = self._changes.abilities.saves
        stays = not (saves and self._turns.gives_way(tune_controller, trial))
        if stays:
            self._save_best(tune_controller, trial, result)
        at = self._members.at(trial, result)
        weights = self._changes.prepare(tune_controller, trial, decision, at=at, stays=stays)
        answer = self._changes.apply(tune_controller, trial, decision, result, weights, stays=stays)
        self._save(changed=False)
        if answer == self.CONTINUE and saves and self._turns.rests(tune_controller, trial):
            return str(self.NOOP)
        return answer

    def _save_best(self, tune_controller: Any, trial: Trial, result: Mapping[str, Any]) -> None:
        """Have a trial that is not paused save its best weights if the next decision may copy them."""
        state = self.controller.members[self._members.member(trial)]
        is_best = state.status == "ok" and state.best_segment == state.segment - 1
        due = self.controller.actions.copy_allowed(state.segment) or adapter.latest(trial) is None
        by_tune = trial.checkpoint_freq and result.get(ITERATION, 0) % trial.checkpoint_freq == 0
        if self._changes.abilities.in_place and is_best and due and not by_tune:
            adapter.save(tune_controller, trial, result)

    # -- trials that wait ----------------------------------------------------------------------------------------------

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """The waiting trial that has trained least, of those that nothing holds back.

        Tune asks in every turn of its loop, so everything that had to wait for something is done here as well.
        """
        began = time.perf_counter()
        if self._barrier.settle(tune_controller):
            self.latencies.append(time.perf_counter() - began)
            self._save(changed=True)
        self._changes.settle(tune_controller)
        self._turns.settle(tune_controller)
        for trial in self._hangs.hung(tune_controller):
            logger.warning("trial %s has not reported for %g seconds: killed", trial.trial_id, self._hangs.timeout)
            adapter.kill(trial)
        return self._turns.next(tune_controller)

    def _is_held(self, trial: Trial) -> bool:
        if trial not in self._members:
            return False
        member = self._members.member(trial)
        return self._barrier.holds(member) or self._copies.awaited_by(member)

    # -- state ---------------------------------------------------------------------------------------------------------

    def get_state(self) -> dict[str, Any]:
        """All that a restored run needs, except the agent's own checkpoint."""
        return {
            **self._members.get_state(),
            "copies": self._copies.get_state(),
            "population": self._population,
            "segments": self.controller.segments,
            "controller": self.controller.get_state(),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from ``get_state``. To be called before the first ``on_trial_add``."""
        self._members.set_state(state)
        self._copies.set_state(state["copies"])
        self._horizon = None
        self.controller.segments = state["segments"]
        self.controller.set_state(state["controller"])

    def _save(self, *, changed: bool) -> None:
        if self._state is not None and not self._closed:
            self._state.save(self.get_state, changed=changed)
            self._state.save_agent(self.controller.policy)

    def debug_string(self) -> str:
        best = self.controller.incumbent
        result = f"best {self._metric}: {best.value:.6g} (member {best.member})" if best else "no result yet"
        return f"{len(self.controller.members)} members, {result}"


def _changes_anything(decision: Decision) -> bool:
    return decision.stop or decision.source.kind != "keep"
