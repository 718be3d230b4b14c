"""Chunks are joined where they continue each other, and only there."""

from __future__ import annotations

from raytune_rl.records import Chunk, Decision, Transition
from raytune_rl.rllib import experience


def _transition(segment: int, **changes: object) -> Transition:
    decision = Decision(member=0, segment=segment, hyperparameters={}, positions=(), action=(0,))
    return Transition(decision=decision, reward=float(segment), next_observation=(), **changes)  # type: ignore[arg-type]


def _chunk(start: int, length: int, episode: str = "0-0", **changes: object) -> Chunk:
    transitions = [_transition(start + i) for i in range(length - 1)] + [_transition(start + length - 1, **changes)]
    return Chunk(episode=episode, member=0, start=start, transitions=tuple(transitions))


def _spans(chunks: list[Chunk]) -> list[tuple[str, int, int]]:
    return [(c.episode, c.start, len(c.transitions)) for c in chunks]


def test_what_continues_is_joined_across_other_members() -> None:
    chunks = [_chunk(0, 2), _chunk(0, 1, "1-0"), _chunk(2, 1), _chunk(1, 2, "1-0")]
    joined = experience.join(chunks)
    assert _spans(joined) == [("0-0", 0, 3), ("1-0", 0, 3)]
    assert [t.decision.segment for t in joined[0].transitions] == [0, 1, 2]


def test_gaps_overlaps_and_ends_stay_apart() -> None:
    assert _spans(experience.join([_chunk(0, 2), _chunk(3, 1)])) == [("0-0", 0, 2), ("0-0", 3, 1)]
    assert _spans(experience.join([_chunk(0, 2), _chunk(1, 2)])) == [("0-0", 0, 2), ("0-0", 1, 2)]
    assert _spans(experience.join([_chunk(0, 2, truncated=True), _chunk(2, 1)])) == [("0-0", 0, 2), ("0-0", 2, 1)]


def test_what_is_left_out_splits_its_chunk() -> None:
    kept = experience.select([_chunk(4, 5)], lambda t: t.decision.segment != 6)
    assert _spans(kept) == [("0-0", 4, 2), ("0-0", 7, 2)]
    assert experience.count(kept) == 4


def test_batches_keep_chunks_whole_and_lose_none() -> None:
    chunks = [_chunk(0, 3, str(i)) for i in range(5)]
    groups = experience.batches(chunks, 4)
    assert [experience.count(group) for group in groups] == [6, 6, 3]
    assert [c.episode for group in groups for c in group] == list("01234")


def test_an_outbox_knows_its_size_and_loses_the_oldest_first() -> None:
    outbox = experience.Outbox([_chunk(0, 2)])
    outbox.add([_chunk(2, 3), _chunk(0, 4, "1-0")])
    assert outbox.transitions == 9
    assert outbox.trim(7) == 2
    assert outbox.keep(lambda t: t.decision.segment != 0) == 1
    assert (_spans(list(outbox.chunks)), outbox.transitions) == ([("0-0", 2, 3), ("1-0", 1, 3)], 6)
    taken = outbox.take()
    assert (outbox.transitions, outbox.chunks) == (0, ())
    outbox.add([_chunk(5, 1)])
    outbox.put_back(taken)
    assert _spans(list(outbox.chunks)) == [("0-0", 2, 3), ("1-0", 1, 3), ("0-0", 5, 1)]
    assert outbox.transitions == 7
    assert outbox.trim(0) == 6, "the last chunk stays"
