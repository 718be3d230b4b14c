"""Copies of weights between trials: from a running actor where that is possible, else through checkpoints in storage.

A paused trial continues from what its checkpoint manager calls its latest checkpoint, so a copy puts another one there.
The copy is pending from its decision until the receiver has been saved and the donor is not being saved. If it fails,
the receiver keeps its weights and its hyperparameters, with a warning.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ray.tune.experiment import Trial

from raytune_rl.controller.controller import Controller
from raytune_rl.records import Decision, Source
from raytune_rl.tune.adapter import submit
from raytune_rl.tune.trials import adapter
from raytune_rl.tune.trials.actor import export
from raytune_rl.tune.trials.adapter import SavedCheckpoint
from raytune_rl.tune.trials.members import ORIGIN, Members
from raytune_rl.tune.trials.report import ITERATION, set_values

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingCopy:
    """A copy that a paused trial waits for.

    Attributes:
        member: the receiver.
        source: where the weights come from.
        at: the receiver's report count.
        anew: start from the beginning if there is no such checkpoint (a member that failed before it had any).
    """

    member: int
    source: Source
    at: int
    anew: bool = False


class Copies:
    """The copies of one experiment."""

    def __init__(self, controller: Controller, members: Members) -> None:
        self._controller = controller
        self._members = members
        self._pending: dict[int, PendingCopy] = {}

    def awaited_by(self, member: int) -> bool:
        """Whether ``member`` must not train on yet."""
        return member in self._pending

    def origin(self, source: Source) -> dict[str, int | None]:
        """The columns of the tables that name the donor of ``source``: ``copied_from``, ``copied_segment``."""
        if source.kind == "keep" or source.member not in self._controller.members:
            return {}
        state = self._controller.members[source.member]
        segment = state.best_segment if source.kind == "checkpoint" else state.segment - 1
        return {"copied_from": source.member, "copied_segment": segment}

    def weights(self, source: Source) -> Any:
        """What ``actor.reconfigure`` takes: a running donor's weights, else a checkpoint; ``None`` = neither."""
        donor = self._members.trial(source.member)
        if donor is not None and source.kind == "member" and donor.status == Trial.RUNNING:
            reference = submit(donor, "__ray_call__", export)
            if reference is not None:
                # In a list, so that Ray does not resolve it: a dead donor must not fail the receiver.
                return [reference]
        saved = self._find(source)
        return saved.checkpoint if saved else None

    def note(self, tune_controller: Any, decision: Decision, at: int, *, by_class: bool) -> None:
        """A copy has been decided for a trial that is being paused.

        The weights will come from the donor's latest checkpoint. If a running class Trainable has reported since that,
        it is told to save; a function cannot be.
        """
        source = decision.source
        donor = self._members.trial(source.member)
        if by_class and donor is not None and source.kind == "member" and donor.status == Trial.RUNNING:
            saved, reported = adapter.latest(donor), self._members.track(donor).reported
            if saved is None or self._members.at(donor, saved.metrics) < reported:
                adapter.save(tune_controller, donor, donor.last_result)
        anew = self._controller.members[decision.member].status != "ok"
        self._pending[decision.member] = PendingCopy(member=decision.member, source=source, at=at, anew=anew)

    def forget(self, member: int, *, unless_at: int | None = None) -> None:
        """Drop the member's pending copy, unless it was decided after ``unless_at`` reports."""
        pending = self._pending.get(member)
        if pending is not None and pending.at != unless_at:
            del self._pending[member]

    def settle(self, *, parked: Container[int]) -> bool:
        """Make the copies that can be made now; returns whether there were any.

        Args:
            parked: members that wait in their running actors.
        """
        if not self._pending:
            return False
        ready = [(trial, copy) for copy in self._pending.values() if (trial := self._ready(copy, parked))]
        # Find all weights first: a donor may itself be about to get other ones.
        for trial, copy, saved in [(trial, copy, self._find(copy.source)) for trial, copy in ready]:
            del self._pending[copy.member]
            self._make(trial, copy, saved)
        return bool(ready)

    def get_state(self) -> list[dict[str, Any]]:
        return [asdict(copy) for copy in self._pending.values()]

    def set_state(self, state: list[Mapping[str, Any]]) -> None:
        copies = [PendingCopy(**{**plain, "source": Source(**plain["source"])}) for plain in state]
        self._pending = {copy.member: copy for copy in copies}

    def _ready(self, copy: PendingCopy, parked: Container[int]) -> Trial | None:
        """The receiver, if it is saved and at rest and its donor is not being saved. A receiver that is pending (after
        a crash) does not wait for its donor, because Tune may start it at any time."""
        trial, donor = self._members.trial(copy.member), self._members.trial(copy.source.member)
        if trial is None or trial.is_saving:
            return None
        if trial.status == Trial.PENDING:
            return trial
        if trial.status != Trial.PAUSED and copy.member not in parked:
            return None
        return None if donor is not None and donor.is_saving else trial

    def _find(self, source: Source) -> SavedCheckpoint | None:
        """The checkpoint that ``source`` asks for, if there is one."""
        donor = self._members.trial(source.member)
        if donor is None:
            return None
        if source.kind == "checkpoint":
            return adapter.best(donor, self._controller.metric, self._controller.mode)
        return adapter.latest(donor)

    def _make(self, trial: Trial, copy: PendingCopy, saved: SavedCheckpoint | None) -> None:
        track = self._members.track(trial)
        try:
            if saved is None or not saved.exists():
                raise FileNotFoundError(f"member {copy.source.member} has no checkpoint")
            checkpoint = adapter.copy_into(trial, saved.checkpoint, copy.at)
        except OSError as error:
            if copy.anew:
                track.begin_anew(copy.at)
                adapter.start_from_nothing(trial)
                logger.warning("trial %s begins anew: it has no checkpoint from before it failed", trial.trial_id)
            else:
                track.take_back()
                trial.set_config(set_values(trial.config, track.newest.values))
                logger.warning("trial %s keeps its weights: %s", trial.trial_id, error)
            return
        # The receiver keeps its own counters: its training is as long as everybody's.
        metrics = {**trial.last_result, ITERATION: copy.at - track.offset}
        origin = self.origin(copy.source)
        adapter.start_from(trial, checkpoint, {**metrics, ORIGIN: origin})
        track.amend(**origin)
        logger.info("member %d takes the weights of member %s", copy.member, copy.source.member)
