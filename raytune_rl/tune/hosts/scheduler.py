"""Carries reports from Tune to the controller and its decisions back to the trials; decides nothing itself.

Tune's event loop calls ``on_trial_result`` between two ``train`` calls of a trial. That is the decision point: the
reports go to the controller, its decisions go straight to the trial's actor, and the trial continues. Nothing pauses.
With ``synchronous=True`` trials are parked until all of them have reported.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import ray
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from raytune_rl.records import Decision, Report, Step
from raytune_rl.tune import actor_errors, adapter
from raytune_rl.tune.hosts.host import MISSING_METRIC, REPORTS, SAID, UNPACKED, FileTransfer, Orders
from raytune_rl.tune.hosts.slot import needs_donor

logger = logging.getLogger(__name__)

LATENCY_SAMPLES = 100_000
STILLBORN = 3
"""Actors in a row that fail to start, with no report of anybody yet, after which the run is given up: what is wrong
with them (a module that only the driver finds, say) will not go away."""


class Controller(Protocol):
    """What the scheduler calls of ``controller.Controller``."""

    def step(self, reports: Sequence[Report]) -> Step: ...
    def learn(self, *, wait: bool = False) -> None: ...
    def lost(self, members: Iterable[int]) -> None: ...
    def drop(self, members: Iterable[int]) -> None: ...
    def durable(self, member: int, segment: int) -> None: ...


class Sink(Protocol):
    """Who writes down what happened."""

    def record(self, step: Step) -> None:
        """Take note of a step. Called at once for each, so it has to be quick."""
        ...

    def flush(self) -> bool:
        """Make tables and controller state durable up to here; False if the disk refuses. A host saves its state only
        afterwards, so no host ever knows a segment that the tables don't."""
        ...


@dataclass
class Live:
    """What works only in the driver's process, and what comes of the run there.

    Tune pickles its schedulers when a run starts; the copy holds nothing of this.
    """

    controller: Controller | None = None
    sink: Sink | None = None
    clock: Callable[[], float] = time.monotonic
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=LATENCY_SAMPLES))
    """Seconds from a report's arrival to its decision being on the way, the newest ones."""
    interrupted: str | None = None
    fatal: Exception | None = None
    restarts: int = 0
    dropped: list[int] = field(default_factory=list)
    errors: dict[int, str] = field(default_factory=dict)
    """By trial, why it was given up."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]


class PopulationScheduler(FIFOScheduler):
    """The scheduler of a population of ``HostTrainable`` trials.

    Args:
        live: controller, sink and clock.
        members: by trial index, the members that it hosts.
        state_uris: by trial index, where it keeps its state.
        metric: what the trials report, for Tune.
        checkpoint_every: seconds between two state files of a trial.
        synchronous: all trials take their decisions together, after learning from what they reported.
        in_place: deliver decisions to running actors; otherwise with a pause and restart for each (public calls only).
    """

    _supports_buffered_results = False  # each result is a decision point

    def __init__(
        self,
        *,
        live: Live,
        members: Sequence[tuple[int, ...]],
        state_uris: Sequence[str],
        metric: str,
        checkpoint_every: float = 10.0,
        synchronous: bool = False,
        in_place: bool | None = None,
    ) -> None:
        super().__init__()
        self.live = live
        self._metric = metric
        self._members = tuple(members)
        self._state_uris = tuple(state_uris)
        self._home = {member: trial for trial, group in enumerate(self._members) for member in group}
        self._checkpoint_every = checkpoint_every
        self._synchronous = synchronous
        self._in_place = adapter.supports_in_place() if in_place is None else in_place
        self._trials: dict[int, Trial] = {}
        self._expected = set(range(len(self._members)))  # trials that have not ended; one that restarts has not
        self._parked: dict[int, list[Report]] = {}
        self._held: set[int] = set()  # parked by PAUSE: not to be resumed by Tune before their decisions are there
        self._stopped_members: set[int] = set()
        self._saved_at: dict[int, float] = {}
        self._reported: dict[int, int] = {}  # by member, the last segment that it has reported
        self._stillborn = 0
        if not self._in_place:
            logger.warning(
                "ray %s is not among the versions checked (%s): each decision takes a pause and a restart (slow)",
                ray.__version__,
                ", ".join(adapter.CHECKED),
            )

    # -- what Tune calls -------------------------------------------------------------------------------------------

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Also called again for each restart of a trial."""
        self._trials[_index(trial)] = trial

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        began = time.perf_counter()
        index = _index(trial)
        self._trials[index] = trial
        if self._in_place:
            adapter.forget_finished(tune_controller, trial)
        if MISSING_METRIC in result:
            return self._give_up(result[MISSING_METRIC])
        if UNPACKED in result:
            logger.info("trial %d trains members one by one: %s", index, result[UNPACKED])
        for message in result.get(SAID, ()):
            logger.warning("trial %d: %s", index, message)
        reports = list(result[REPORTS])
        result[REPORTS].clear()  # Tune keeps the last result, in memory and in its snapshots
        if self.live.fatal is not None:
            return str(TrialScheduler.STOP)
        if self._synchronous:
            self._parked[index] = reports
            self._held.add(index)
            answer = self._try_barrier(tune_controller, asking=index).get(index)
        else:
            answer = self._decide_at_once(tune_controller, index, reports, began)
        if answer is not None:
            self.live.latencies.append(time.perf_counter() - began)
            return answer
        return str(TrialScheduler.NOOP if self._in_place else TrialScheduler.PAUSE)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        index = _index(trial)
        self._parked.pop(index, None)
        self._held.discard(index)
        if not self._reported and actor_errors.failed_to_start(trial):
            self._stillborn += 1
            if self._stillborn >= STILLBORN:
                self.live.fatal = ValueError(f"The trials cannot start: {actor_errors.cause(trial)}.")
        if trial.should_recover():
            logger.warning("trial %d died; it starts again from its last state: %s", index, actor_errors.cause(trial))
            self.live.restarts += 1
            self._controller.lost(self._running_members(index))
            return  # on_trial_add comes next; the barrier waits for it
        self.live.errors[index] = actor_errors.cause(trial)
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
        """Decide once everybody waits; returns the answer for ``asking`` (the others are told here).

        Those that are furthest behind go first: a trial that was restarted catches up before the others move on.
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
                    self._tell(tune_controller, index, answer)
        return asked

    def _tell(self, tune_controller: Any, index: int, answer: str) -> None:
        """Carry out an answer for a trial that Tune isn't asking about at the moment."""
        if answer == TrialScheduler.STOP:
            self._expected.discard(index)
            tune_controller.stop_trial(self._trials[index])
        elif self._in_place:
            adapter.resume_training(tune_controller, self._trials[index])

    # -- decisions -------------------------------------------------------------------------------------------------

    def _decide_at_once(self, tune_controller: Any, index: int, reports: Sequence[Report], began: float) -> str | None:
        """Decide about one trial and send it on; what can wait is done while it trains. ``None``: it is on its way."""
        self._note(reports)
        step = self._controller.step(reports)
        if self._is_over(index, step.decisions) or not self._in_place or _went_wrong(reports):
            self._sink.record(step)
            self._controller.learn(wait=False)
            return self._deliver_and_save(step.decisions, {index: reports})[index]
        due = self._save_is_due(index)
        (orders,) = self._orders(step.decisions, [index], stage=due).values()
        adapter.train_on(tune_controller, self._trials[index], "follow_and_train", orders)
        self.live.latencies.append(time.perf_counter() - began)
        self._sink.record(step)
        self._controller.learn(wait=False)
        if due and self._flush(reports):
            adapter.submit(self._trials[index], "commit")
        return None

    def _decide_together(self, reports: Mapping[int, list[Report]]) -> dict[int, str]:
        """One step of the controller for all that wait, after learning. Returns what Tune is to do with each trial."""
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
        """Deliver decisions to trials that wait for us anyway: those that are to save do so with them."""
        over = {index: self._is_over(index, decisions) for index in reports}
        # What went wrong is never to be trained again: a member that kills its process would do so for ever.
        saves = {i for i, told in reports.items() if over[i] or _went_wrong(told) or self._save_is_due(i)}
        saved = [report for index in saves for report in reports[index]]
        if (saves or not self._in_place) and not self._flush(saved):
            saves = set()  # nothing is saved that the tables lack
        self._deliver(decisions, reports.keys(), saves=saves)
        return {index: self._answer(over[index]) for index in reports}

    def _answer(self, over: bool) -> str:
        if self._in_place:
            return str(TrialScheduler.STOP if over else TrialScheduler.CONTINUE)
        # A pause saves the host. It comes back once more, finds all its members stopped, and ends by itself.
        return str(TrialScheduler.STOP if self.live.interrupted else TrialScheduler.PAUSE)

    def _deliver(self, decisions: Sequence[Decision], trials: Iterable[int], *, saves: Set[int]) -> None:
        for index, orders in self._orders(decisions, trials, saves=saves).items():
            if self._in_place:
                adapter.submit(self._trials[index], "apply", orders)
            else:
                self._trials[index].set_config({**self._trials[index].config, "orders": orders})

    def _orders(
        self,
        decisions: Sequence[Decision],
        trials: Iterable[int],
        *,
        saves: Set[int] = frozenset(),
        stage: bool = False,
    ) -> dict[int, Orders]:
        """What each trial is to do. Weights that have to come from another trial are asked for here, before anybody
        gets an order: within a barrier nobody's weights change before they were copied."""
        copies = self._copies(decisions)
        found = {}
        for index in trials:
            own = tuple(_bare(d) for d in decisions if self._home[d.member] == index)
            found[index] = Orders(
                decisions=own,
                copies={d.member: copies[d.member] for d in own if d.member in copies},
                save=index in saves,
                stage=stage,
            )
        return found

    def _copies(self, decisions: Sequence[Decision]) -> dict[int, Any]:
        """By receiving member, the weights that have to come from another trial."""
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
        if self._in_place and (trial := self._trials.get(home)) is not None:
            ref = adapter.submit(trial, "export_state", donor, kind)
            if ref is not None:
                return ref
        uri, segment = self._state_uris[home], self._reported.get(donor, -1)
        return FileTransfer(state_uri=uri, member=donor, kind=kind, segment=segment)

    def _flush(self, saved: Sequence[Report]) -> bool:
        """Bring everything up to here to the disk, so that the trials that reported ``saved`` may save as well."""
        if not self._sink.flush():
            return False
        for report in saved:
            self._controller.durable(report.member, report.segment)
        return True

    def _save_is_due(self, index: int) -> bool:
        now = self.live.clock()
        if now - self._saved_at.setdefault(index, now) < self._checkpoint_every:
            return False
        self._saved_at[index] = now
        return True

    def _is_over(self, index: int, decisions: Sequence[Decision]) -> bool:
        self._stopped_members -= {d.member for d in decisions if not d.stop}
        self._stopped_members |= {d.member for d in decisions if d.stop}
        return self.live.interrupted is not None or not self._running_members(index)

    # -- trials that go --------------------------------------------------------------------------------------------

    def _gone(self, tune_controller: Any, trial: Trial) -> None:
        """A trial has ended: by our own answer, its last member being done, or because Tune stopped it."""
        index = _index(trial)
        self._parked.pop(index, None)
        self._held.discard(index)
        self._end(index, tune_controller)

    def _lose(self, index: int, tune_controller: Any) -> None:
        """A trial that failed too often: its members are gone, the others go on."""
        lost = self._running_members(index)
        logger.error(
            "trial %d fails again and again, members %s are given up: %s", index, lost, self.live.errors[index]
        )
        self.live.dropped.extend(lost)
        self._controller.drop(lost)
        self._end(index, tune_controller)

    def _end(self, index: int, tune_controller: Any) -> None:
        self._trials.pop(index, None)
        if index in self._expected:
            self._expected.remove(index)
            self._try_barrier(tune_controller, asking=None)  # it may have been the one that the others waited for

    def _give_up(self, metrics: Sequence[str]) -> str:
        names = ", ".join(metrics) or "nothing"
        self.live.fatal = ValueError(f"The candidate does not report the metric {self._metric!r}; it reports {names}.")
        return str(TrialScheduler.STOP)

    def _running_members(self, index: int) -> list[int]:
        return [member for member in self._members[index] if member not in self._stopped_members]

    @property
    def _controller(self) -> Controller:
        assert self.live.controller is not None, "a pickled scheduler cannot run"
        return self.live.controller

    @property
    def _sink(self) -> Sink:
        assert self.live.sink is not None, "a pickled scheduler cannot run"
        return self.live.sink


def _index(trial: Trial) -> int:
    return int(trial.config["trial"])


def _went_wrong(reports: Sequence[Report]) -> bool:
    return any(report.status in ("failed", "hung") for report in reports)


def _generation(reports: Sequence[Report]) -> int:
    return max((report.segment for report in reports), default=-1)


def _bare(decision: Decision) -> Decision:
    """Without what only learners read: orders are sent, and kept in the state files, for every segment."""
    return replace(decision, observation=(), action=(), extras={})
