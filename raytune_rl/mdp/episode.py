"""Collects the transitions that members produce, one by one and out of step, into chunks that a learner can take.

Trials are asynchronous, crash, and repeat segments after a restore, so the buffer keeps each member's episode in order:
what is repeated replaces what was there, and what has already been handed out is never continued by something that
does not follow it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from typing import Any

from raytune_rl.records import Chunk, Decision, Source, Transition


@dataclass(slots=True)
class _Track:
    """One member's part: transitions not handed out yet, each with its episode and its place in it."""

    pending: list[tuple[str, int, Transition]] = field(default_factory=list)
    episode: str = ""
    """The name of the newest episode, as given."""
    closed: bool = True
    """Whether that episode has ended."""
    retake: int = 0
    """How often it broke off and began anew, see ``EpisodeBuffer.rewind``."""
    place: int = 0
    """The place that its next transition gets."""
    taken: int = -1
    """The newest segment of it that has been handed out; -1 = none."""

    @property
    def name(self) -> str:
        """The newest episode's name as chunks show it."""
        return f"{self.episode}.{self.retake}" if self.retake else self.episode

    @property
    def holds_newest(self) -> bool:
        """Whether something of the newest episode is pending."""
        return bool(self.pending) and self.pending[-1][0] == self.name

    def begin(self, episode: str, retake: int = 0) -> None:
        self.episode, self.retake, self.place, self.taken, self.closed = episode, retake, 0, -1, False


class EpisodeBuffer:
    """Open episodes of all members.

    >>> from raytune_rl.records import Decision
    >>> buffer = EpisodeBuffer()
    >>> decision = Decision(member=0, segment=0, hyperparameters={"lr": 0.1}, positions=(0.5,))
    >>> buffer.add(decision, 0.3, (0.0,), episode="0-0", truncated=True)
    >>> [(chunk.episode, len(chunk.transitions)) for chunk in buffer.drain()]
    [('0-0', 1)]
    """

    def __init__(self) -> None:
        self._tracks: dict[int, _Track] = {}

    def __len__(self) -> int:
        """Transitions not handed out yet."""
        return sum(len(track.pending) for track in self._tracks.values())

    def add(
        self,
        decision: Decision,
        reward: float,
        next_observation: Sequence[float],
        *,
        episode: str,
        terminated: bool = False,
        truncated: bool = False,
    ) -> None:
        """Append what came of a decision to its member's episode.

        A segment that the member's episode has had already replaces that and everything after it.
        """
        track = self._tracks.setdefault(decision.member, _Track())
        if track.episode != episode:
            track.begin(episode)
        self.rewind(decision.member, decision.segment)
        if track.closed:
            track.begin(episode, track.retake + 1)
        transition = Transition(
            decision=decision,
            reward=reward,
            next_observation=tuple(next_observation),
            terminated=terminated,
            truncated=truncated,
        )
        track.pending.append((track.name, track.place, transition))
        track.place += 1
        track.closed = terminated or truncated

    def drain(self, min_length: int = 1) -> list[Chunk]:
        """Hand out and forget, member by member: all that has at least ``min_length`` transitions or has ended."""
        return [
            Chunk(episode=name, member=member, start=entries[0][1], transitions=tuple(t for _, _, t in entries))
            for member, track in sorted(self._tracks.items())
            if track.pending
            for name, entries in self._take(track, min_length)
        ]

    def rewind(self, member: int, segment: int) -> None:
        """The member goes on from ``segment``: forget what its newest episode had of that and later segments.

        Where some of it has been handed out already, the episode breaks off there and what follows is a new one, by the
        same name with a suffix (``"3-0"``, ``"3-0.1"``). So is what follows an end that could not be taken back.
        """
        track = self._tracks.get(member)
        if track is None:
            return
        while track.holds_newest and track.pending[-1][2].decision.segment >= segment:
            _, track.place, _ = track.pending.pop()
            track.closed = False
        if track.taken >= segment:
            track.begin(track.episode, track.retake + 1)

    def close(self, member: int) -> None:
        """No more will come from the member: its last transition, if it is still here, becomes a truncated end."""
        track = self._tracks.get(member)
        if track is None:
            return
        if track.holds_newest:
            name, place, last = track.pending[-1]
            track.pending[-1] = (name, place, replace(last, truncated=not last.terminated))
        track.closed = True

    def to_dict(self) -> dict[str, Any]:
        """Plain data, by member."""
        return {
            str(member): {
                "pending": [(name, place, asdict(transition)) for name, place, transition in track.pending],
                "episode": track.episode,
                "closed": track.closed,
                "retake": track.retake,
                "place": track.place,
                "taken": track.taken,
            }
            for member, track in self._tracks.items()
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EpisodeBuffer:
        """The inverse of ``to_dict``, after a round trip through JSON too."""
        buffer = cls()
        for member, track in data.items():
            pending = [(name, place, _transition(plain)) for name, place, plain in track["pending"]]
            buffer._tracks[int(member)] = _Track(**{**track, "pending": pending})
        return buffer

    @staticmethod
    def _take(track: _Track, min_length: int) -> list[tuple[str, list[tuple[str, int, Transition]]]]:
        taken, kept = [], []
        for name, group in groupby(track.pending, key=lambda entry: entry[0]):
            entries = list(group)
            newest = name == track.name
            if newest and not track.closed and len(entries) < min_length:
                kept += entries
                continue
            taken.append((name, entries))
            if newest:
                track.taken = entries[-1][2].decision.segment
        track.pending = kept
        return taken


def _transition(plain: Mapping[str, Any]) -> Transition:
    decision = dict(plain["decision"])
    tuples = {name: tuple(decision[name]) for name in ("positions", "action", "observation")}
    extras = {name: tuple(values) for name, values in decision["extras"].items()}
    restored = Decision(**{**decision, **tuples, "extras": extras, "source": Source(**decision["source"])})
    return Transition(**{**plain, "decision": restored, "next_observation": tuple(plain["next_observation"])})
