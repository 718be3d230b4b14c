"""Collects the transitions of members, which report asynchronously, into chunks that a learner can take.

Trials crash and repeat segments after a restore, so the buffer keeps each member's episode in order: a repeated segment
replaces the transitions from there on, and a chunk that has been handed out is only continued by transitions that
follow it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from typing import Any

from raytune_rl.records import Chunk, Decision, Source, Transition


@dataclass(slots=True)
class _Track:
    """One member's transitions.

    Attributes:
        pending: not handed out yet: episode, index in the episode, transition.
        episode: the name of the newest episode, as given.
        closed: whether that episode has ended.
        retake: how often it was cut and continued under another name, see ``EpisodeBuffer.rewind``.
        place: the index of its next transition.
        taken: the newest segment of it that has been handed out; -1 = none.
    """

    pending: list[tuple[str, int, Transition]] = field(default_factory=list)
    episode: str = ""
    closed: bool = True
    retake: int = 0
    place: int = 0
    taken: int = -1

    @property
    def name(self) -> str:
        """The newest episode's name as chunks show it."""
        return f"{self.episode}.{self.retake}" if self.retake else self.episode

    @property
    def holds_newest(self) -> bool:
        """Whether a transition of the newest episode is pending."""
        return bool(self.pending) and self.pending[-1][0] == self.name

    def begin(self, episode: str, retake: int = 0) -> None:
        self.episode, self.retake, self.place, self.taken, self.closed = episode, retake, 0, -1, False


class EpisodeBuffer:
    """The episodes of all members.

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
        """Append a decision and its outcome to its member's episode.

        A segment that is in the member's episode already replaces that transition and all later ones.

        Args:
            decision: opened the segment.
            reward: for the segment.
            next_observation: after the segment, (F,).
            episode: names the member's episode.
            terminated: whether the episode ended in a terminal state.
            truncated: whether it was cut off.
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

    def drain(self) -> list[Chunk]:
        """Hand out all pending transitions, member by member, and forget them."""
        return [
            Chunk(episode=name, member=member, start=entries[0][1], transitions=tuple(t for _, _, t in entries))
            for member, track in sorted(self._tracks.items())
            if track.pending
            for name, entries in self._take(track)
        ]

    def rewind(self, member: int, segment: int) -> None:
        """The member goes on from ``segment``: forget that segment and all later ones of its newest episode.

        Where some of them have been handed out already, the episode is cut there, and what follows is a new one of the
        same name with a suffix (``"3-0"``, ``"3-0.1"``). So is what follows an end that has been handed out.
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
        """End the member's episode. Its last transition, if it is still pending, becomes truncated."""
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
    def _take(track: _Track) -> list[tuple[str, list[tuple[str, int, Transition]]]]:
        """The pending transitions by episode."""
        if track.holds_newest:
            track.taken = track.pending[-1][2].decision.segment
        groups = [(name, list(group)) for name, group in groupby(track.pending, key=lambda entry: entry[0])]
        track.pending = []
        return groups


def _transition(plain: Mapping[str, Any]) -> Transition:
    decision = dict(plain["decision"])
    tuples = {name: tuple(decision[name]) for name in ("positions", "action", "observation")}
    extras = {name: tuple(values) for name, values in decision["extras"].items()}
    restored = Decision(**{**decision, **tuples, "extras": extras, "source": Source(**decision["source"])})
    return Transition(**{**plain, "decision": restored, "next_observation": tuple(plain["next_observation"])})
