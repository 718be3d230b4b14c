"""Which trial is which member, and how far each of them is."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ray.tune.experiment import Trial

from raytune_rl.controller.controller import Controller
from raytune_rl.records import Value
from raytune_rl.tune.trials import adapter
from raytune_rl.tune.trials.report import ITERATION, get_values, seconds_of, set_values
from raytune_rl.tune.trials.track import Track

logger = logging.getLogger(__name__)

ORIGIN = "raytune_rl_origin"
"""Key in a copied checkpoint's metrics: whose weights they are. Tune's snapshot of the experiment may be newer than our
state, and is then the only place that knows of a copy."""
SNAPSHOT_LAG = 120.0
"""Seconds after which we assume that Tune's snapshot of the experiment knows a checkpoint."""


class Members:
    """Trials by member, and members by trial.

    Args:
        controller: knows the hyperparameters and the starting values.
        segment_length: reports between two decisions.
        starts: starting values of member ``n``, for the hyperparameters that its trial's config lacks. If the config
            has none at all, the controller chooses instead.
    """

    def __init__(
        self, controller: Controller, *, segment_length: int, starts: Callable[[int], Mapping[str, Value]] | None
    ) -> None:
        self._controller = controller
        self._segment_length = segment_length
        self._starts = starts
        self._members: dict[str, int] = {}
        self._tracks: dict[int, Track] = {}
        self._trials: dict[int, Trial] = {}
        self._durable: deque[tuple[float, int, int]] = deque()
        self._warned: set[str] = set()

    def __contains__(self, trial: Trial) -> bool:
        return trial.trial_id in self._members

    def __iter__(self) -> Iterator[tuple[int, Trial]]:
        return iter(sorted(self._trials.items()))

    def member(self, trial: Trial) -> int:
        return self._members[trial.trial_id]

    def track(self, trial: Trial) -> Track:
        return self._tracks[self._members[trial.trial_id]]

    def trial(self, member: int | None) -> Trial | None:
        """The trial of ``member``, if it is in this run."""
        return None if member is None else self._trials.get(member)

    def turn(self, trial: Trial) -> tuple[int, int]:
        """The sort key of waiting trials: the least trained one comes first, then the lowest member."""
        member = self._members.get(trial.trial_id)
        return (0, 0) if member is None else (self._tracks[member].segment, member)

    def at(self, trial: Trial, result: Mapping[str, Any]) -> int:
        """How many reports the member had made at ``result``."""
        return self.track(trial).offset + int(result.get(ITERATION) or 0)

    def join(self, trial: Trial) -> int:
        """Add a new member. It begins with the values in its trial's config, clipped to their bounds. Returns its
        number."""
        member, names = len(self._members), self._controller.space.names
        given = self._within_bounds(trial, get_values(trial.config, names))
        missing = [name for name in names if name not in given]
        if missing and given and self._starts is not None:
            given = {**self._starts(member), **given}
        decision = self._controller.begin(member, given if len(given) == len(names) else None)
        for name in missing:
            trial.evaluated_params[name] = decision.hyperparameters[name]  # shown in Tune's tables
        trial.set_config(set_values(trial.config, decision.hyperparameters))
        # A new trial with a checkpoint belongs to a run that is restored without our state.
        saved = adapter.find_checkpoint(trial) if trial.has_checkpoint() else None
        self._members[trial.trial_id] = member
        self._trials[member] = trial
        self._tracks[member] = Track.start(decision.hyperparameters, at=saved.iteration if saved else 0)
        return member

    def rejoin(self, trial: Trial) -> int:
        """A trial comes back after a crash, its own or the driver's, from its last existing checkpoint.

        Its config is set back to what was in force at that checkpoint, because Tune keeps the newest one. Returns the
        member's report count.
        """
        member = self.member(trial)
        track = self._tracks[member]
        self._trials[member] = trial
        saved = adapter.find_checkpoint(trial, track.saved)
        at = track.offset + (saved.iteration if saved else 0)
        if saved is None or not self._catch_up(trial, saved.metrics, open_at=at):
            track.rewind(at)
            trial.set_config(set_values(trial.config, track.newest.values))
        if saved is not None and ORIGIN in saved.metrics:
            track.amend(**saved.metrics[ORIGIN])
        return at

    def rejoin_finished(self, trial: Trial, result: Mapping[str, Any]) -> int:
        """A trial comes back that has ended; ``result`` is its last. Returns its member."""
        member = self.member(trial)
        self._trials[member] = trial
        self._catch_up(trial, result, open_at=self.at(trial, result) - 1)
        return member

    def note_checkpoint(self, trial: Trial) -> None:
        """Remember the trial's latest checkpoint. Tell the controller which segments are durable: those before
        checkpoints that Tune's snapshot must know by now."""
        now, track, saved = time.monotonic(), self.track(trial), adapter.latest(trial)
        if saved is not None:
            track.note_saved(saved.name, saved.iteration, seconds_of(saved.metrics))
            segment = track.segment_at(self.at(trial, saved.metrics)) - 1
            self._durable.append((now, self.member(trial), segment))
        while self._durable and now - self._durable[0][0] > SNAPSHOT_LAG:
            _, member, segment = self._durable.popleft()
            if segment >= 0:
                self._controller.durable(member, segment)

    def _catch_up(self, trial: Trial, result: Mapping[str, Any], *, open_at: int) -> bool:
        """Skip the segments that were decided after our state was written, and are lost with it.

        Args:
            open_at: the report count at which the last of them had been opened.

        Returns:
            Whether there were any. Then the trial's config is newer than what is known here.
        """
        track = self.track(trial)
        missed = (open_at - track.newest.at) // self._segment_length
        if missed < 1 or open_at <= track.reported:
            return False
        values = get_values(trial.config, self._controller.space.names)
        at = track.newest.at + missed * self._segment_length
        track.skip(missed, at=at, seconds=seconds_of(result), values=values)
        return True

    def get_state(self) -> dict[str, Any]:
        return {
            "members": dict(self._members),
            "tracks": {member: track.to_dict() for member, track in self._tracks.items()},
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """To be called before the trials come back."""
        self._members = dict(state["members"])
        self._tracks = {member: Track.from_dict(track) for member, track in state["tracks"].items()}

    def _within_bounds(self, trial: Trial, values: Mapping[str, Value]) -> dict[str, Value]:
        """The config's values, clipped to their bounds with a warning."""
        inside: dict[str, Value] = {}
        for name, value in values.items():
            hyperparameter = self._controller.space[name]
            position = hyperparameter.encode(value)  # raises if it is not a number, or not one of the options
            lower, upper = getattr(hyperparameter, "lower", None), getattr(hyperparameter, "upper", None)
            if lower is None or upper is None or lower <= value <= upper:
                inside[name] = value
                continue
            inside[name] = hyperparameter.decode(position)
            if name not in self._warned:
                self._warned.add(name)
                logger.warning(
                    "%s=%r of trial %s lies outside %g to %g; it starts at %r",
                    *(name, value, trial.trial_id, lower, upper, inside[name]),
                )
        return inside
