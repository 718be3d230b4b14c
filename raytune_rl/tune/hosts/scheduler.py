"""Carries reports from Tune to the controller and its decisions back to the trials; decides nothing itself.

Tune's event loop calls ``on_trial_result`` between two ``train`` calls of a trial. That is the decision point: the
reports go to the controller, its decisions to the trial (``delivery.py``), and the trial trains on. With
``synchronous=True`` trials wait until all of them have reported.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler

from raytune_rl.records import Decision, Report
from raytune_rl.tune import actor_errors, adapter
from raytune_rl.tune.hosts.delivery import STOP, ByPause, Delivery, InPlace
from raytune_rl.tune.hosts.driver_state import DecisionMaker, DriverState, Sink
from raytune_rl.tune.hosts.messages import MISSING_METRIC, REPORTS, UNPACKED, WARNINGS
from raytune_rl.tune.hosts.slot import needs_donor
from raytune_rl.tune.hosts.transfers import FileTransfer, Orders

logger = logging.getLogger(__name__)

MAX_FAILED_STARTS = 3
"""Actors that may fail to start, in a row and before anybody has reported, until the run is given up: what is wrong
then (a module that only the driver can import, say) will not go away."""


class PopulationScheduler(FIFOScheduler):
    """The scheduler of a population of ``HostTrainable`` trials.

    Args:
        driver: controller, sink and clock.
        members: by trial index, the members that it hosts.
        state_uris: by trial index, where it keeps its state.
        metric: what the trials report, for Tune.
        checkpoint_every: seconds between two state files of a trial.
        synchronous: all trials take their decisions together, after learning from what they reported.
        in_place: deliver decisions to running actors, else with a pause and a restart for each; ``None`` = in place if
            this version of Ray is known to allow it.
    """

    _supports_buffered_results = False  # each result is a decision point

    def __init__(
        self,
        *,
        driver: DriverState,
        members: Sequence[tuple[int, ...]],
        state_uris: Sequence[str],
        metric: str,
        checkpoint_every: float = 10.0,
        synchronous: bool = False,
        in_place: bool | None = None,
    ) -> None:
        super().__init__()
        self.driver = driver
        self._metric = metric
        self._members = tuple(members)
        self._state_uris = tuple(state_uris)
        self._home = {member: trial for trial, group in enumerate(self._members) for member in group}
        self._checkpoint_every = checkpoint_every
        self._synchronous = synchronous
        if in_place is None:
            in_place = adapter.supports_in_place()
        self._delivery: Delivery = InPlace() if in_place else ByPause()
        self._trials: dict[int, Trial] = {}
        self._expected = set(range(len(self._members)))  # trials that have not ended; one that restarts has not
        self._parked: dict[int, list[Report]] = {}  # by trial, the reports of those that wait at the barrier
        self._held: set[int] = set()  # trials that Tune must not start again before their decisions are there
        self._stopped_members: set[int] = set()
        self._saved_at: dict[int, float] = {}
        self._reported: dict[int, int] = {}  # by member, the last segment that it has reported
        self._failed_starts = 0

    # -- what Tune calls -------------------------------------------------------------------------------------------

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Called again for each restart of a trial."""
        self._trials[_index(trial)] = trial

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        began = time.perf_counter()
        index = _index(trial)
        self._trials[index] = trial
        self._delivery.received(tune_controller, trial)
        if MISSING_METRIC in result:
            return self._give_up(result[MISSING_METRIC])
        if UNPACKED in result:
            logger.info("trial %d trains members one by one: %s", index, result[UNPACKED])
        for message in result.get(WARNINGS, ()):
            logger.warning("trial %d: %s", index, message)
        reports = list(result[REPORTS])
        result[REPORTS].clear()  # because Tune keeps the last result, in memory and in its snapshots
        if self.driver.fatal is not None:
            return STOP
        if self._synchronous:
            self._parked[index] = reports
            self._held.add(index)
            answer = self._try_barrier(tune_controller, asking=index).get(index)
        else:
            answer = self._decide_at_once(tune_controller, index, reports, began)
        if answer is None:
            return self._delivery.waiting
        self.driver.latencies.append(time.perf_counter() - began)
        return answer

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        index = _index(trial)
        self._parked.pop(index, None)
        self._held.discard(index)
        if not self._reported and actor_errors.failed_to_start(trial):
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS:
                self.driver.fatal = ValueError(f"The trials cannot start: {actor_errors.cause(trial)}.")
        if trial.should_recover():
            logger.warning("trial %d died; it starts again from its last state: %s", index, actor_errors.cause(trial))
            self.driver.restarts += 1
            return  # on_trial_add comes next; the barrier waits for the trial
        self.driver.errors[index] = actor_errors.cause(trial)
        self._lose(index, tune_controller)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        self._gone(tune_controller, trial)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        self._gone(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        for status in (Trial.PENDING, Trial.PAUSED):
            for trial in tune_controller.get_trials():
                if trial.status == status and _index(trial) not in self._held:
                    return trial
        return None

    def debug_string(self) -> str:
        return f"PopulationScheduler: {len(self._home)} members in {len(self._members)} trials"

    # -- the barrier -----------------------------------------------------------------------------------------------

    def _try_barrier(self, tune_controller: Any, asking: int | None) -> dict[int, str]:
        """Decide once all trials wait.

        The trials that are furthest behind go first: one that was restarted catches up before the others move on.

        Args:
            asking: the trial that Tune waits for an answer about, if any. The others' answers are carried out here.

        Returns:
            ``{asking: answer}``, or nothing if that trial has to wait.
        """
        asked: dict[int, str] = {}
        while self._parked and self._parked.keys() >= self._expected:
            behind = min(_generation(reports) for reports in self._parked.values())
            group = {i: r for i, r in sorted(self._parked.items()) if _generation(r) == behind}
            for index in group:
                del self._parked[index]
            answers = self._decide_together(group)
            self._held -= group.keys()
            for index, answer in answers.items():
                if index == asking:
                    asked[index] = answer
                else:
                    self._carry_out(tune_controller, index, answer)
        return asked

    def _carry_out(self, tune_controller: Any, index: int, answer: str) -> None:
        """Do what ``answer`` would make Tune do, for a trial that Tune is not asking about at the moment."""
        if answer == STOP:
            self._expected.discard(index)
            tune_controller.stop_trial(self._trials[index])
        else:
            self._delivery.resume(tune_controller, self._trials[index])

    # -- decisions -------------------------------------------------------------------------------------------------

    def _decide_at_once(self, tune_controller: Any, index: int, reports: Sequence[Report], began: float) -> str | None:
        """Decide about one trial and send it on; the tables are written while it trains. Returns the answer for Tune,
        ``None`` if the trial trains on already."""
        self._note(reports)
        step = self._controller.step(reports)
        if self._is_over(index, step.decisions) or self._delivery.saves_first or _went_wrong(reports):
            self._sink.record(step)
            self._controller.learn(wait=False)
            return self._deliver_and_save(step.decisions, {index: reports})[index]
        due = self._save_is_due(index)
        (orders,) = self._orders(step.decisions, [index], stage=due).values()
        self._delivery.deliver_and_train(tune_controller, self._trials[index], orders)
        self.driver.latencies.append(time.perf_counter() - began)
        self._sink.record(step)
        self._controller.learn(wait=False)
        if due and self._flush(reports):
            self._delivery.commit(self._trials[index])
        return None

    def _decide_together(self, reports: Mapping[int, list[Report]]) -> dict[int, str]:
        """Decide for several trials at once, after learning from their reports. Returns the answer for each trial."""
        together = sorted((report for group in reports.values() for report in group), key=lambda r: r.member)
        self._note(together)
        step = self._controller.step(together)
        self._sink.record(step)
        self._controller.learn(wait=True)
        return self._deliver_and_save(step.decisions, reports)

    def _note(self, reports: Sequence[Report]) -> None:
        self._reported.update({report.member: report.segment for report in reports})

    def _deliver_and_save(
        self, decisions: Sequence[Decision], reports: Mapping[int, Sequence[Report]]
    ) -> dict[int, str]:
        """Deliver decisions to trials that wait; those that have to save do so with them. Returns the answers."""
        over = {index: self._is_over(index, decisions) for index in reports}
        # After a failure save at once: a member that crashes its process in some segment must not train that again.
        saves = {i for i, group in reports.items() if over[i] or _went_wrong(group) or self._save_is_due(i)}
        saved = [report for index in saves for report in reports[index]]
        if (saves or self._delivery.saves_first) and not self._flush(saved):
            saves = set()  # no state file may hold what the tables lack
        for index, orders in self._orders(decisions, reports.keys(), saves=saves).items():
            self._delivery.deliver(self._trials[index], orders)
        interrupted = self.driver.interrupted is not None
        return {i: self._delivery.answer(over=over[i], interrupted=interrupted) for i in reports}

    def _orders(
        self,
        decisions: Sequence[Decision],
        trials: Iterable[int],
        *,
        saves: Set[int] = frozenset(),
        stage: bool = False,
    ) -> dict[int, Orders]:
        """The orders for each trial. Weights of other trials are requested here, before any trial gets its orders, so
        that at a barrier nobody's weights change before they have been copied."""
        copies = self._copies(decisions)
        orders = {}
        for index in trials:
            own = tuple(_bare(d) for d in decisions if self._home[d.member] == index)
            orders[index] = Orders(
                decisions=own,
                copies={d.member: copies[d.member] for d in own if d.member in copies},
                save=index in saves,
                stage=stage,
            )
        return orders

    def _copies(self, decisions: Sequence[Decision]) -> dict[int, Any]:
        """By receiving member, the weights that come from another trial: each donor exports once."""
        exports: dict[tuple[int, str], Any] = {}
        copies: dict[int, Any] = {}
        for decision in decisions:
            donor, kind = decision.source.member, decision.source.kind
            if donor is None or not needs_donor(decision):
                continue
            if self._home.get(donor) in (None, self._home[decision.member]):
                continue
            if (donor, kind) not in exports:
                exports[donor, kind] = self._export(donor, kind)
            copies[decision.member] = exports[donor, kind]
        return copies

    def _export(self, donor: int, kind: Any) -> Any:
        home = self._home[donor]
        trial = self._trials.get(home)
        ref = None if trial is None else self._delivery.export(trial, donor, kind)
        if ref is not None:
            return ref
        uri, segment = self._state_uris[home], self._reported.get(donor, -1)
        return FileTransfer(state_uri=uri, member=donor, kind=kind, segment=segment)

    def _flush(self, saved: Sequence[Report]) -> bool:
        """Make everything up to here durable, so that the trials that reported ``saved`` may save their states."""
        if not self._sink.flush():
            return False
        for report in saved:
            self._controller.durable(report.member, report.segment)
        return True

    def _save_is_due(self, index: int) -> bool:
        now = self.driver.clock()
        if now - self._saved_at.setdefault(index, now) < self._checkpoint_every:
            return False
        self._saved_at[index] = now
        return True

    def _is_over(self, index: int, decisions: Sequence[Decision]) -> bool:
        self._stopped_members -= {d.member for d in decisions if not d.stop}
        self._stopped_members |= {d.member for d in decisions if d.stop}
        return self.driver.interrupted is not None or not self._running_members(index)

    # -- trials that go --------------------------------------------------------------------------------------------

    def _gone(self, tune_controller: Any, trial: Trial) -> None:
        """A trial has ended: by our own answer, because its last member is done, or because Tune stopped it."""
        index = _index(trial)
        self._parked.pop(index, None)
        self._held.discard(index)
        self._end(index, tune_controller)

    def _lose(self, index: int, tune_controller: Any) -> None:
        """A trial that failed too often: its members are gone, the others go on."""
        lost = self._running_members(index)
        logger.error(
            "trial %d fails again and again, members %s are given up: %s", index, lost, self.driver.errors[index]
        )
        self.driver.dropped.extend(lost)
        self._controller.drop(lost)
        self._end(index, tune_controller)

    def _end(self, index: int, tune_controller: Any) -> None:
        self._trials.pop(index, None)
        if index in self._expected:
            self._expected.remove(index)
            self._try_barrier(tune_controller, asking=None)  # the others may have been waiting for this trial only

    def _give_up(self, metrics: Sequence[str]) -> str:
        names = ", ".join(metrics) or "nothing"
        self.driver.fatal = ValueError(
            f"The candidate does not report the metric {self._metric!r}; it reports {names}."
        )
        return STOP

    def _running_members(self, index: int) -> list[int]:
        return [member for member in self._members[index] if member not in self._stopped_members]

    @property
    def _controller(self) -> DecisionMaker:
        assert self.driver.controller is not None, "a pickled scheduler cannot run"
        return self.driver.controller

    @property
    def _sink(self) -> Sink:
        assert self.driver.sink is not None, "a pickled scheduler cannot run"
        return self.driver.sink


def _index(trial: Trial) -> int:
    return int(trial.config["trial"])


def _went_wrong(reports: Sequence[Report]) -> bool:
    return any(report.status in ("failed", "hung") for report in reports)


def _generation(reports: Sequence[Report]) -> int:
    return max((report.segment for report in reports), default=-1)


def _bare(decision: Decision) -> Decision:
    """Without what only learners read, to keep orders and state files small."""
    return replace(decision, observation=(), action=(), extras={})
