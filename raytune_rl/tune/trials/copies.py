"""Weights that travel between trials: from a running actor where that is possible, else through checkpoints in storage.

A trial that has been paused goes on from whatever its checkpoint manager calls its latest checkpoint. A copy is a
*landing*: it is noted when it is decided, and carried out when the receiver has been saved and its donor is not just
saving. What cannot land leaves the receiver as it was, values included, and says so.
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
from raytune_rl.tune.trials.adapter import Saved
from raytune_rl.tune.trials.members import ORIGIN, Members
from raytune_rl.tune.trials.report import ITERATION, set_values

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Landing:
    """A copy that a paused trial waits for.

    Attributes:
        member: the receiver.
        source: where the weights come from.
        at: the receiver's report count.
        anew: begin from nothing where there is no such checkpoint (a member that failed before it had any).
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
        self._landings: dict[int, Landing] = {}

    def awaited_by(self, member: int) -> bool:
        """Whether ``member`` must not go on yet."""
        return member in self._landings

    def origin(self, source: Source) -> dict[str, int | None]:
        """What the tables say about weights that come from ``source``."""
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
                return [
                    reference
                ]  # in a list, so that Ray does not resolve it: a dead donor must not fail the receiver
        saved = self._find(source)
        return saved.checkpoint if saved else None

    def note(self, tune_controller: Any, decision: Decision, at: int, *, by_class: bool) -> None:
        """A copy has been decided for a trial that is being paused.

        A donor that runs has in storage what it was paused or asked to save with. A class Trainable that has nothing
        fresh there is asked to save; a function cannot be.
        """
        source = decision.source
        donor = self._members.trial(source.member)
        if by_class and donor is not None and source.kind == "member" and donor.status == Trial.RUNNING:
            saved, reported = adapter.latest(donor), self._members.track(donor).reported
            if saved is None or self._members.at(donor, saved.metrics) < reported:
                adapter.save(tune_controller, donor, donor.last_result)
        anew = self._controller.members[decision.member].status != "ok"
        self._landings[decision.member] = Landing(member=decision.member, source=source, at=at, anew=anew)

    def forget(self, member: int, *, unless_at: int | None = None) -> None:
        landing = self._landings.get(member)
        if landing is not None and landing.at != unless_at:
            del self._landings[member]

    def settle(self, *, parked: Container[int]) -> bool:
        """Land what can land now (``parked``: members that wait in their running actors); whether anything has."""
        if not self._landings:
            return False
        ready = [(trial, landing) for landing in self._landings.values() if (trial := self._ready(landing, parked))]
        # All of them take what the donors have now, before a donor takes up somebody else's.
        for trial, landing, saved in [(trial, landing, self._find(landing.source)) for trial, landing in ready]:
            del self._landings[landing.member]
            self._land(trial, landing, saved)
        return bool(ready)

    def get_state(self) -> list[dict[str, Any]]:
        return [asdict(landing) for landing in self._landings.values()]

    def set_state(self, state: list[Mapping[str, Any]]) -> None:
        landings = [Landing(**{**plain, "source": Source(**plain["source"])}) for plain in state]
        self._landings = {landing.member: landing for landing in landings}

    def _ready(self, landing: Landing, parked: Container[int]) -> Trial | None:
        """The receiver, if it is saved and at rest and its donor is not just saving. After a crash the donor is not
        waited for: a pending trial starts when Tune likes."""
        trial, donor = self._members.trial(landing.member), self._members.trial(landing.source.member)
        if trial is None or trial.is_saving:
            return None
        if trial.status == Trial.PENDING:
            return trial
        if trial.status != Trial.PAUSED and landing.member not in parked:
            return None
        return None if donor is not None and donor.is_saving else trial

    def _find(self, source: Source) -> Saved | None:
        donor = self._members.trial(source.member)
        if donor is None:
            return None
        if source.kind == "checkpoint":
            return adapter.best(donor, self._controller.metric, self._controller.mode)
        return adapter.latest(donor)

    def _land(self, trial: Trial, landing: Landing, saved: Saved | None) -> None:
        track = self._members.track(trial)
        try:
            if saved is None or not saved.exists():
                raise FileNotFoundError(f"member {landing.source.member} has no checkpoint")
            copy = adapter.copy_into(trial, saved.checkpoint, landing.at)
        except OSError as error:
            if landing.anew:
                track.begin_anew(landing.at)
                adapter.goes_on_from_nothing(trial)
                logger.warning("trial %s begins anew: it has no checkpoint from before it failed", trial.trial_id)
            else:
                track.take_back()
                trial.set_config(set_values(trial.config, track.newest.values))
                logger.warning("trial %s keeps its weights: %s", trial.trial_id, error)
            return
        # The receiver keeps its own counters: its training is as long as everybody's.
        metrics = {**trial.last_result, ITERATION: landing.at - track.offset}
        origin = self.origin(landing.source)
        adapter.goes_on_from(trial, copy, {**metrics, ORIGIN: origin})
        track.amend(**origin)
        logger.info("member %d takes the weights of member %s", landing.member, landing.source.member)
