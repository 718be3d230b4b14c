"""The trial: a Tune actor that hosts several members and never pauses.

One ``train`` call is one segment of each of them. Decisions come between two calls, straight to the actor (see
``adapter.py``). Its state is not in Tune's checkpoints but in files of its own (``storage.py``), which ``setup`` finds
again, whether Tune restarts the actor or a new driver resumes the run.
"""

from __future__ import annotations

import logging
import math
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ray
from ray import tune
from ray.tune.result import DONE

from raytune_rl.population.candidate import Candidate, Packable, State
from raytune_rl.records import Decision, Mode, Report
from raytune_rl.tune.hosts.crash_marker import Presence
from raytune_rl.tune.hosts.slot import Slot, SlotSettings, Snapshot, Trained, Transfer, needs_donor
from raytune_rl.tune.hosts.watchdog import Watchdog
from raytune_rl.tune.storage import StateStore

logger = logging.getLogger(__name__)

REPORTS = "reports"
MISSING_METRIC = "missing_metric"
UNPACKED = "unpacked"
"""Key of a result: why members of the trial train one by one, said once."""
SAID = "said"
"""Key of a result: warnings from the trial's process."""
HUNG_NOTE = "hung.json"
PACK_HUNG_NOTE = "pack-hung.json"
FILE_POLL = 0.05
"""Seconds between two looks at another trial's state file."""
WORST = {"min": float("inf"), "max": float("-inf")}


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSpec:
    """One trial of a population.

    Attributes:
        candidate: what it trains.
        start: the decisions that open its members' training; these are its members.
        segment_length: optimiser steps (reports, for Trainables) per segment.
        metric, mode: what "best" means.
        seed: the experiment's.
        state_uri: directory for the trial's state files, nobody else's.
        session: of the driver, see ``presence``.
        segment_timeout: seconds that one member's segment may take; ``None`` = for ever.
        synchronous: repeatable bit for bit: copies are waited for.
        copy_deadline: seconds that a copy is waited for then.
        snapshot_every: segments between two states that are kept for good; 0 = none.
    """

    candidate: Candidate
    start: tuple[Decision, ...]
    segment_length: int
    metric: str
    mode: Mode
    seed: int
    state_uri: str
    session: str = ""
    segment_timeout: float | None = None
    synchronous: bool = False
    copy_deadline: float = 60.0
    snapshot_every: int = 0

    @property
    def members(self) -> tuple[int, ...]:
        return tuple(decision.member for decision in self.start)


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """Decisions for a trial's members.

    Attributes:
        decisions: at most one per member.
        copies: by member, the snapshot that comes from another trial: an ObjectRef, or where to read it.
        save: write the state file afterwards.
        stage: put the state aside for a ``commit`` that comes later.
    """

    decisions: tuple[Decision, ...]
    copies: Mapping[int, Any]
    save: bool = False
    stage: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FileTransfer:
    """A snapshot from the state file of a trial that has no actor (``Transfer``): it has ended, or it is paused.

    ``segment`` is the last that the member has reported. Whoever can wait gets the file that holds it; the others take
    the newest there is.
    """

    state_uri: str
    member: int
    kind: Literal["member", "checkpoint"]
    segment: int

    def ready(self, timeout: float = 0.0) -> bool:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            present = read_snapshot(self.state_uri, self.member)
            if present is not None and present.segment >= self.segment:
                break
            time.sleep(FILE_POLL)
        return True

    def get(self) -> Snapshot:
        snapshot = read_snapshot(self.state_uri, self.member, best=self.kind == "checkpoint")
        if snapshot is None:
            raise LookupError(f"no state of member {self.member} in {self.state_uri}")
        return snapshot


class RefTransfer:
    """A snapshot on its way through the object store (``Transfer``)."""

    def __init__(self, ref: ray.ObjectRef) -> None:
        self._ref = ref

    def ready(self, timeout: float = 0.0) -> bool:
        done, _ = ray.wait([self._ref], timeout=timeout)
        return bool(done)

    def get(self) -> Snapshot:
        snapshot: Snapshot = ray.get(self._ref)
        return snapshot


class Reports(list[Report]):
    """The reports in a trial's result. Tune writes every result into two debug messages, wanted or not: so in short."""

    def __repr__(self) -> str:
        return f"<{len(self)} reports>"


class Said(logging.Handler):
    """Keeps the warnings of a trial's process for its next report: the run's log is written in the driver's."""

    MOST = 20
    """Messages between two reports; further ones are dropped."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if len(self._messages) < self.MOST:
            self._messages.append(record.getMessage())

    def taken(self) -> list[str]:
        """What was said since the last call."""
        found, self._messages = self._messages, []
        return found


class HostTrainable(tune.Trainable):
    """Hosts the members of ``specs[config["trial"]]``. Made for ``tune.with_parameters(HostTrainable, specs=...)``."""

    def setup(self, config: dict[str, Any], specs: Sequence[HostSpec] = ()) -> None:
        os.chdir(os.environ.get("TUNE_ORIG_WORKING_DIR", "."))  # candidates' relative paths mean the user's directory
        logging.getLogger("ray.tune.trainable").setLevel(logging.WARNING)  # a line per restored Trainable otherwise
        self._said = Said()
        logging.getLogger("raytune_rl").addHandler(self._said)
        self._spec = specs[config["trial"]]
        self._store = StateStore(self._spec.state_uri)
        self._watchdog = Watchdog(self._spec.segment_timeout)
        self._presence = Presence(self._store, self._spec.session)
        self._threads_set = False
        self._staged: dict[str, Any] | None = None
        self._settings = SlotSettings(
            candidate=self._spec.candidate,
            segment_length=self._spec.segment_length,
            metric=self._spec.metric,
            mode=self._spec.mode,
            seed=self._spec.seed,
            trial_id=f"trial-{config['trial']}",
            node=_node(),
            copy_deadline=self._spec.copy_deadline if self._spec.synchronous else 0.0,
            snapshot_every=self._spec.snapshot_every,
        )
        places = devices(self._amount("GPU"))
        self._slots = {
            decision.member: Slot(self._settings, decision, device=places[index % len(places)])
            for index, decision in enumerate(self._spec.start)
        }
        candidate = self._spec.candidate
        self._pack = candidate.pack() if len(self._slots) > 1 and isinstance(candidate, Packable) else None
        self._told: set[str] = set()
        self._revive()
        if orders := config.get("orders"):
            self.apply(orders)

    def step(self) -> dict[str, Any]:
        """One segment of every member that is not stopped."""
        self._limit_threads()
        live = [slot for slot in self._slots.values() if not slot.stopped]
        together = self._train_together(live)
        reports = Reports(
            slot.run_segment(lambda slot=slot: self._watched(slot), together.get(slot.index))  # type: ignore[misc]
            for slot in live
        )
        result: dict[str, Any] = {REPORTS: reports, self._spec.metric: self._best_of(reports), DONE: not live}
        missing = next((slot.missing_metrics for slot in live if slot.missing_metrics is not None), None)
        if missing is not None:
            result[MISSING_METRIC] = list(missing)
        if self._pack is not None and (reason := self._pack.reason) is not None and reason not in self._told:
            self._told.add(reason)
            result[UNPACKED] = reason
        if said := self._said.taken():
            result[SAID] = said
        return result

    def apply(self, orders: Orders) -> None:
        """Carry decisions out, between two ``train`` calls. What a candidate does wrong is in its next report."""
        current = [d for d in orders.decisions if d.stop or d.segment >= self._slots[d.member].segment]
        # All snapshots before the first landing, so that members that swap their weights really swap them.
        sources = {d.member: self._source(d, orders.copies) for d in current if needs_donor(d)}
        for decision in current:
            self._slots[decision.member].follow(decision, sources.get(decision.member))
        if orders.save:
            self.save_state()
        if orders.stage:
            self._staged = self._state()

    def follow_and_train(self, orders: Orders) -> dict[str, Any]:
        """``apply`` and ``train`` in one call."""
        self.apply(orders)
        result: dict[str, Any] = self.train()
        return result

    def commit(self) -> bool:
        """Write the state that was put aside. The driver asks for it when all that it presupposes is durable on its
        side; meanwhile the members have gone on training."""
        staged, self._staged = self._staged, None
        return staged is not None and self._store.save(staged)

    def export_state(self, member: int, kind: Literal["member", "checkpoint"]) -> Snapshot:
        """A member's present or best weights, for the object store. Raises ``LookupError`` if it has none."""
        return self._slots[member].snapshot(kind)

    def save_state(self) -> bool:
        """Write the state file. The driver asks for it when everything up to here is durable on its side; an unasked
        save (at exit, say) could know segments that no table has."""
        return self._store.save(self._state())

    def _state(self) -> dict[str, Any]:
        return {"slots": {index: slot.to_save() for index, slot in self._slots.items()}}

    def cleanup(self) -> None:
        logging.getLogger("raytune_rl").removeHandler(self._said)
        self._watchdog.close()
        self._presence.close()
        for slot in self._slots.values():
            slot.close()

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """Only where ``PAUSE`` is the way (unknown Ray): then every decision comes with a restart."""
        self.save_state()
        return {"state_uri": self._spec.state_uri}

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing to do: ``setup`` has found the newest state already."""

    # -- help ------------------------------------------------------------------------------------------------------

    def _train_together(self, live: Sequence[Slot]) -> Mapping[int, Trained]:
        """The next segment of those members that can train as one program, by member."""
        if self._pack is None:
            return {}
        ready = {slot.index: member for slot in live if (member := slot.ready()) is not None}
        if len(ready) < 2:
            return {}
        began, segment = time.perf_counter(), max(slot.segment for slot in live)
        watching = self._watchdog.watching(self._leave_packed_note, pieces=len(ready))
        with self._presence.training(None, segment), watching:
            results = self._pack.train(list(ready.values()), self._spec.segment_length)
        found = {index: result for index, result in zip(ready, results, strict=True) if result is not None}
        seconds = (time.perf_counter() - began) / max(1, len(found))
        return {index: Trained(result=result, seconds=seconds) for index, result in found.items()}

    def _leave_packed_note(self) -> None:
        logger.error("the members have been in one segment for too long: restarting the trial, without packing")
        self._store.note(PACK_HUNG_NOTE, {})

    def _revive(self) -> None:
        saved = self._store.load()
        for index, slot in self._slots.items():
            if saved is not None and index in saved["slots"]:
                slot.restore(saved["slots"][index])
            else:
                slot.start()
        if self._store.take_note(PACK_HUNG_NOTE) is not None:
            self._pack = None  # one by one it will be seen who hangs
            return
        note, death = self._store.take_note(HUNG_NOTE), self._presence.before
        if note is not None and note.get("member") in self._slots:
            logger.warning("member %(member)s hung in segment %(segment)s; the trial goes on without it", note)
            self._slots[note["member"]].spoil(note["segment"], "hung")
        elif death is not None and death.member is None:
            logger.warning("the process died while its members trained as one program: they train one by one now")
            self._pack = None
        elif death is not None and death.member in self._slots:
            logger.warning("the process died while member %d was in segment %d", death.member, death.segment)
            self._slots[death.member].spoil(death.segment, "failed")

    def _source(self, decision: Decision, copies: Mapping[int, Any]) -> Snapshot | Transfer | None:
        donor, kind = decision.source.member, decision.source.kind
        if donor in self._slots and (kind == "member" or kind == "checkpoint"):
            try:
                return self._slots[donor].snapshot(kind)
            except LookupError:
                return None
        copy = copies.get(decision.member)
        return RefTransfer(copy) if isinstance(copy, ray.ObjectRef) else copy

    @contextmanager
    def _watched(self, slot: Slot) -> Iterator[None]:
        watching = self._watchdog.watching(lambda: self._leave_note(slot))
        with self._presence.training(slot.index, slot.segment), watching:
            yield

    def _leave_note(self, slot: Slot) -> None:
        logger.error(
            "member %d has been in segment %d for more than %s s: restarting the trial",
            slot.index,
            slot.segment,
            self._spec.segment_timeout,
        )
        self._store.note(HUNG_NOTE, {"member": slot.index, "segment": slot.segment})

    def _best_of(self, reports: Sequence[Report]) -> float:
        pick = min if self._spec.mode == "min" else max
        return pick((r.metrics[self._spec.metric] for r in reports if r.status == "ok"), default=WORST[self._spec.mode])

    def _amount(self, resource: str) -> float:
        resources = self.trial_resources
        return float(resources.required_resources.get(resource, 0)) if resources is not None else 0.0

    def _limit_threads(self) -> None:
        """Torch takes every core of the machine otherwise, in each trial. Not imported for those who don't use it."""
        if not self._threads_set and (torch := sys.modules.get("torch")) is not None:
            torch.set_num_threads(max(1, int(self._amount("CPU"))))
            self._threads_set = True


def _node() -> str:
    """The host's name and the beginning of Ray's own, since several nodes can be on one host."""
    context = ray.get_runtime_context() if ray.is_initialized() else None
    return platform.node() + (f"/{context.get_node_id()[:8]}" if context is not None else "")


def devices(gpus: float) -> tuple[str, ...]:
    """Where the members of a trial train in turn: its GPUs (of a share of one: that one), else the CPU.

    Ray shows a process its own GPUs only, so they count from 0 in each trial.
    """
    if not gpus:
        return ("cpu",)
    import torch

    if not torch.cuda.is_available():
        logger.warning("this trial has %g GPU by Ray's account, but torch sees none: it trains on the CPU", gpus)
        return ("cpu",)
    return tuple(f"cuda:{index}" for index in range(max(1, min(math.floor(gpus), torch.cuda.device_count()))))


def read_snapshot(state_uri: str, member: int, *, best: bool = False) -> Snapshot | None:
    """A member's newest or best weights from its trial's state file; ``None`` if they are not there."""
    saved = StateStore(state_uri).load()
    if saved is None or member not in saved["slots"]:
        return None
    slot = saved["slots"][member]
    if best:
        kept: Snapshot | None = slot["memory"].best
        return kept
    state: State | None = slot["state"]
    return None if state is None else Snapshot(member=member, segment=slot["memory"].segment - 1, state=state)


def read_snapshots(state_uri: str) -> dict[str, list[Snapshot]]:
    """All weights in a trial's state file: each member's ``best`` and ``final`` ones, and every ``snapshot``."""
    saved = StateStore(state_uri).load()
    found: dict[str, list[Snapshot]] = {"best": [], "final": [], "snapshot": []}
    for member, slot in (saved or {"slots": {}})["slots"].items():
        if slot["memory"].best is not None:
            found["best"].append(slot["memory"].best)
        if slot["state"] is not None:
            last = slot["memory"].segment - 1
            found["final"].append(Snapshot(member=member, segment=last, state=slot["state"]))
        found["snapshot"] += slot.get("snapshots", [])
    return found


def export_best(candidate: Candidate, state_uri: str, member: int, directory: Path) -> bool:
    """Write a member's best model for users; False if its trial has saved none."""
    snapshot = read_snapshot(state_uri, member, best=True)
    if snapshot is None:
        return False
    candidate.export(snapshot.state, directory)
    return True
