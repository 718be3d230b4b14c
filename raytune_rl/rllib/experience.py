"""Chunks on their way to a learner: joined where they belong together, left out where nothing can be learned."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from raytune_rl.records import Chunk, Transition


def count(chunks: Iterable[Chunk]) -> int:
    """Transitions in ``chunks``."""
    return sum(len(chunk.transitions) for chunk in chunks)


def join(chunks: Sequence[Chunk]) -> list[Chunk]:
    """Merge chunks that continue one another, in the order of their first appearance.

    Advantages reach only as far as a piece does, so the longer the better. Chunks of one episode that overlap or leave
    a gap (a member was wound back) stay apart.
    """
    joined: list[Chunk] = []
    last: dict[str, int] = {}
    for chunk in chunks:
        if not chunk.transitions:
            continue
        index = last.get(chunk.episode)
        before = joined[index] if index is not None else None
        if before is not None and _continues(before, chunk):
            assert index is not None
            joined[index] = replace(before, transitions=before.transitions + chunk.transitions)
        else:
            last[chunk.episode] = len(joined)
            joined.append(chunk)
    return joined


def select(chunks: Iterable[Chunk], usable: Callable[[Transition], bool]) -> list[Chunk]:
    """Only the usable transitions; a chunk is split where one is left out."""
    selected: list[Chunk] = []
    for chunk in chunks:
        run: list[Transition] = []
        for index, transition in enumerate((*chunk.transitions, None)):
            if transition is not None and usable(transition):
                run.append(transition)
            elif run:
                selected.append(replace(chunk, start=chunk.start + index - len(run), transitions=tuple(run)))
                run = []
    return selected


def batches(chunks: Sequence[Chunk], size: int) -> list[list[Chunk]]:
    """Consecutive groups of about ``size`` transitions each; chunks are not cut, the last group may be smaller."""
    groups: list[list[Chunk]] = [[]]
    for chunk in chunks:
        if count(groups[-1]) >= size:
            groups.append([])
        groups[-1].append(chunk)
    return [group for group in groups if group]


def _continues(before: Chunk, chunk: Chunk) -> bool:
    end = before.transitions[-1]
    return chunk.start == before.start + len(before.transitions) and not (end.terminated or end.truncated)
