"""Experience on its way to a learner: consecutive chunks are joined, unusable transitions left out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from raytune_rl.records import Chunk, Transition


class Outbox:
    """Experience that waits for the learner, oldest first. Its size is kept up to date, since it is read at every step.

    Attributes:
        transitions: number of transitions in it.
    """

    def __init__(self, chunks: Iterable[Chunk] = ()) -> None:
        self._chunks: deque[Chunk] = deque(chunks)
        self.transitions = count(self._chunks)

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        return tuple(self._chunks)

    def add(self, chunks: Sequence[Chunk]) -> None:
        self._chunks.extend(chunks)
        self.transitions += count(chunks)

    def put_back(self, chunks: Sequence[Chunk]) -> None:
        """Return chunks that were taken but not learned from, in front of all others."""
        self._chunks.extendleft(reversed(chunks))
        self.transitions += count(chunks)

    def take(self) -> tuple[Chunk, ...]:
        """Remove and return everything, consecutive chunks joined."""
        chunks = tuple(join(self._chunks))
        self._chunks.clear()
        self.transitions = 0
        return chunks

    def trim(self, limit: int) -> int:
        """Drop the oldest chunks until at most ``limit`` transitions, or one chunk, are left. Returns how many
        transitions were dropped."""
        before = self.transitions
        while len(self._chunks) > 1 and self.transitions > limit:
            self.transitions -= len(self._chunks.popleft().transitions)
        return before - self.transitions

    def keep(self, usable: Callable[[Transition], bool]) -> int:
        """Drop all transitions that are not usable. Returns how many."""
        before = self.transitions
        self._chunks = deque(select(self._chunks, usable))
        self.transitions = count(self._chunks)
        return before - self.transitions


def count(chunks: Iterable[Chunk]) -> int:
    """Transitions in ``chunks``."""
    return sum(len(chunk.transitions) for chunk in chunks)


def join(chunks: Iterable[Chunk]) -> list[Chunk]:
    """Merge chunks that continue one another, in the order of their first appearance.

    Advantages are computed within a chunk, so longer ones are better. Chunks of one episode that overlap or leave a gap
    (because a member was rewound) stay separate.
    """
    pieces: list[tuple[Chunk, list[Transition]]] = []  # the first chunk of each, and the transitions of all its chunks
    last: dict[str, tuple[Chunk, list[Transition]]] = {}
    for chunk in chunks:
        if not chunk.transitions:
            continue
        first, transitions = last.get(chunk.episode, (chunk, []))
        if _continues(first, transitions, chunk):
            transitions += chunk.transitions
        else:
            last[chunk.episode] = (chunk, list(chunk.transitions))
            pieces.append(last[chunk.episode])
    return [replace(first, transitions=tuple(transitions)) for first, transitions in pieces]


def select(chunks: Iterable[Chunk], usable: Callable[[Transition], bool]) -> list[Chunk]:
    """Only the usable transitions; a chunk is split where one is left out."""
    selected: list[Chunk] = []
    for chunk in chunks:
        if chunk.transitions and all(map(usable, chunk.transitions)):  # as nearly always
            selected.append(chunk)
            continue
        run: list[Transition] = []
        for index, transition in enumerate((*chunk.transitions, None)):
            if transition is not None and usable(transition):
                run.append(transition)
            elif run:
                selected.append(replace(chunk, start=chunk.start + index - len(run), transitions=tuple(run)))
                run = []
    return selected


def batches(chunks: Sequence[Chunk], size: int) -> list[list[Chunk]]:
    """Consecutive groups of at least ``size`` transitions; chunks are not cut, and the last group may be smaller."""
    groups: list[list[Chunk]] = [[]]
    for chunk in chunks:
        if count(groups[-1]) >= size:
            groups.append([])
        groups[-1].append(chunk)
    return [group for group in groups if group]


def _continues(first: Chunk, transitions: Sequence[Transition], chunk: Chunk) -> bool:
    """Whether ``chunk`` continues ``transitions``, which begin with those of ``first``."""
    if not transitions or chunk.start != first.start + len(transitions):
        return False
    return not (transitions[-1].terminated or transitions[-1].truncated)
