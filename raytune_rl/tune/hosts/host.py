"""The trial: a Tune actor that hosts several members and never pauses.

One ``train`` call is one segment of each of them. Between two calls the driver sends decisions straight to the actor
(``delivery.py``). The state is kept in files of its own (``state_files.py``) instead of Tune's checkpoints; ``setup``
loads it, whether Tune restarts the actor or a new driver resumes the run.
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
from typing import Any, Literal

import ray
from ray import tune
from ray.tune.result import DONE

from raytune_rl.population.candidate import Candidate, Packable
from raytune_rl.records import Decision, Mode, Report
from raytune_rl.tune.hosts.crash_marker import CrashMarker
from raytune_rl.tune.hosts.messages import MISSING_METRIC, REPORTS, UNPACKED, WARNINGS, Reports, WarningBuffer
from raytune_rl.tune.hosts.slot import Slot, SlotSettings, Trained, Transfer, needs_donor
from raytune_rl.tune.hosts.state_files import Snapshot
from raytune_rl.tune.hosts.transfers import Orders, RefTransfer
from raytune_rl.tune.hosts.watchdog import Watchdog
from raytune_rl.tune.storage import StateStore

logger = logging.getLogger(__name__)

HUNG_NOTE = "hung.json"
PACK_HUNG_NOTE = "pack-hung.json"
COPY_DEADLINE = 60.0
"""Seconds that a member of a synchronous run waits for a copy."""
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
        state_uri: directory for the state files of this trial alone.
        session: of the driver, see ``CrashMarker``.
        segment_timeout: seconds that one member's segment may take; ``None`` = for ever.
        synchronous: repeatable bit for bit: members wait for their copies.
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
    snapshot_every: int = 0

    @property
    def members(self) -> tuple[int, ...]:
        return tuple(decision.member for decision in self.start)


class HostTrainable(tune.Trainable):
    """Hosts the members of ``specs[config["trial"]]``. Made for ``tune.with_parameters(HostTrainable, specs=...)``."""

    def setup(self, config: dict[str, Any], specs: Sequence[HostSpec] = ()) -> None:
        os.chdir(os.environ.get("TUNE_ORIG_WORKING_DIR", "."))  # where the user's relative paths begin
        logging.getLogger("ray.tune.trainable").setLevel(logging.WARNING)  # a line per restored Trainable otherwise
        self._warning_buffer = WarningBuffer()
        logging.getLogger("raytune_rl").addHandler(self._warning_buffer)
        self._spec = specs[config["trial"]]
        self._store = StateStore(self._spec.state_uri)
        self._watchdog = Watchdog(self._spec.segment_timeout)
        self._crash_marker = CrashMarker(self._store, self._spec.session)
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
            copy_deadline=COPY_DEADLINE if self._spec.synchronous else 0.0,
            snapshot_every=self._spec.snapshot_every,
        )
        places = devices(self._amount("GPU"))
        self._slots = {
            decision.member: Slot(self._settings, decision, device=places[index % len(places)])
            for index, decision in enumerate(self._spec.start)
        }
        candidate = self._spec.candidate
        self._pack = candidate.pack() if len(self._slots) > 1 and isinstance(candidate, Packable) else None
        self._unpacked_reasons: set[str] = set()
        self._start_slots()
        if orders := config.get("orders"):
            self.apply(orders)

    def step(self) -> dict[str, Any]:
        """One segment of every member that is not stopped."""
        self._limit_threads()
        active = [slot for slot in self._slots.values() if not slot.stopped]
        packed = self._train_packed(active)
        reports = Reports(
            slot.report_trained(packed[slot.index], self._watching(slot))
            if slot.index in packed
            else slot.run_segment(self._watching(slot))
            for slot in active
        )
        result: dict[str, Any] = {REPORTS: reports, self._spec.metric: self._best_of(reports), DONE: not active}
        missing = next((slot.missing_metrics for slot in active if slot.missing_metrics is not None), None)
        if missing is not None:
            result[MISSING_METRIC] = list(missing)
        reason = None if self._pack is None else self._pack.reason
        if reason is not None and reason not in self._unpacked_reasons:
            self._unpacked_reasons.add(reason)
            result[UNPACKED] = reason
        if warnings := self._warning_buffer.take():
            result[WARNINGS] = warnings
        return result

    def apply(self, orders: Orders) -> None:
        """Carry decisions out, between two ``train`` calls. A candidate's errors are in its next report."""
        current = [d for d in orders.decisions if d.stop or d.segment >= self._slots[d.member].segment]
        # Take all snapshots before anybody's weights change, so that members that swap weights really swap them.
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
        """Write the state that ``apply`` has staged, while the members have trained on. The driver calls this when its
        tables are durable up to that state."""
        staged, self._staged = self._staged, None
        return staged is not None and self._store.save(staged)

    def export_state(self, member: int, kind: Literal["member", "checkpoint"]) -> Snapshot:
        """A member's present or best weights, for the object store. Raises ``LookupError`` if it has none."""
        return self._slots[member].snapshot(kind)

    def save_state(self) -> bool:
        """Write the state file. Only the driver calls this, when its tables are durable up to here: a save at any other
        moment (at exit, say) could hold segments that the tables lack."""
        return self._store.save(self._state())

    def _state(self) -> dict[str, Any]:
        return {"slots": {index: slot.to_save() for index, slot in self._slots.items()}}

    def cleanup(self) -> None:
        logging.getLogger("raytune_rl").removeHandler(self._warning_buffer)
        self._watchdog.close()
        self._crash_marker.close()
        for slot in self._slots.values():
            slot.close()

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """Called only where every decision pauses the trial (``delivery.ByPause``)."""
        self.save_state()
        return {"state_uri": self._spec.state_uri}

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing to do: ``setup`` has loaded the newest state already."""

    # -- help ------------------------------------------------------------------------------------------------------

    def _train_packed(self, active: Sequence[Slot]) -> Mapping[int, Trained]:
        """Train the next segment of those members that go together as one program; by member."""
        if self._pack is None:
            return {}
        ready = {slot.index: member for slot in active if (member := slot.ready()) is not None}
        if len(ready) < 2:
            return {}
        began, segment = time.perf_counter(), max(slot.segment for slot in active)
        in_time = self._watchdog.watching(self._leave_pack_note, pieces=len(ready))
        with self._crash_marker.training(None, segment), in_time:
            outcomes = self._pack.train(list(ready.values()), self._spec.segment_length)
        results = {index: result for index, result in zip(ready, outcomes, strict=True) if result is not None}
        seconds = (time.perf_counter() - began) / max(1, len(results))
        return {index: Trained(result=result, seconds=seconds) for index, result in results.items()}

    def _leave_pack_note(self) -> None:
        logger.error("the members have been in one segment for too long: restarting the trial, without packing")
        self._store.note(PACK_HUNG_NOTE, {})

    def _start_slots(self) -> None:
        """Restore the members from the state file, or build them; deal with what ended the process before this one."""
        saved = self._store.load()
        for index, slot in self._slots.items():
            if saved is not None and index in saved["slots"]:
                slot.restore(saved["slots"][index])
            else:
                slot.start()
        if self._store.take_note(PACK_HUNG_NOTE) is not None:
            self._pack = None  # training one by one will show which member hangs
            return
        note, crash = self._store.take_note(HUNG_NOTE), self._crash_marker.previous
        if note is not None and note.get("member") in self._slots:
            logger.warning("member %(member)s hung in segment %(segment)s; the trial goes on without it", note)
            self._slots[note["member"]].mark(note["segment"], "hung")
        elif crash is not None and crash.member is None:
            logger.warning("the process died while its members trained as one program: they train one by one now")
            self._pack = None
        elif crash is not None and crash.member in self._slots:
            logger.warning("the process died while member %d was in segment %d", crash.member, crash.segment)
            self._slots[crash.member].mark(crash.segment, "failed")

    def _source(self, decision: Decision, copies: Mapping[int, Any]) -> Snapshot | Transfer | None:
        """The weights that ``decision`` takes from another member; ``None`` if they cannot be had."""
        donor, kind = decision.source.member, decision.source.kind
        if donor in self._slots and (kind == "member" or kind == "checkpoint"):
            try:
                return self._slots[donor].snapshot(kind)
            except LookupError:
                return None
        copy = copies.get(decision.member)
        return RefTransfer(copy) if isinstance(copy, ray.ObjectRef) else copy

    @contextmanager
    def _watching(self, slot: Slot) -> Iterator[None]:
        """Inside, the slot's segment is timed, and a crash is attributed to it."""
        in_time = self._watchdog.watching(lambda: self._leave_note(slot))
        with self._crash_marker.training(slot.index, slot.segment), in_time:
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
        """Keep torch, if the candidate has imported it, to the trial's CPUs; by default it uses every core."""
        if not self._threads_set and (torch := sys.modules.get("torch")) is not None:
            torch.set_num_threads(max(1, int(self._amount("CPU"))))
            self._threads_set = True


def _node() -> str:
    """The host's name and the start of Ray's node id, since one host can run several nodes."""
    context = ray.get_runtime_context() if ray.is_initialized() else None
    return platform.node() + (f"/{context.get_node_id()[:8]}" if context is not None else "")


def devices(gpus: float) -> tuple[str, ...]:
    """The devices that a trial's members are dealt to in turn: its GPUs (a share of one counts as one), else the CPU.

    Ray shows a process only its own GPUs, so they count from 0 in each trial.
    """
    if not gpus:
        return ("cpu",)
    import torch

    if not torch.cuda.is_available():
        logger.warning("this trial has %g GPU by Ray's account, but torch sees none: it trains on the CPU", gpus)
        return ("cpu",)
    return tuple(f"cuda:{index}" for index in range(max(1, min(math.floor(gpus), torch.cuda.device_count()))))
