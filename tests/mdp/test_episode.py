"""Episodes come out in order and whole, whatever the trials do."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from raytune_rl.mdp import EpisodeBuffer
from raytune_rl.records import Chunk, Decision, Source


def decision(member: int, segment: int) -> Decision:
    return Decision(
        member=member,
        segment=segment,
        hyperparameters={"lr": 0.1},
        positions=(0.5,),
        source=Source(kind="member", member=2, name="best"),
        action=(3, 1),
        observation=(0.0, 1.0),
        value=0.25,
        extras={"action_logp": (-1.5,)},
    )


def add(buffer: EpisodeBuffer, member: int, segment: int, reward: float = 0.0, *, episode: str = "", **end) -> None:
    buffer.add(decision(member, segment), reward, (float(segment),), episode=episode or f"{member}-0", **end)


def shape(chunks: list[Chunk]) -> list[tuple[str, int, list[int]]]:
    return [(c.episode, c.start, [t.decision.segment for t in c.transitions]) for c in chunks]


@pytest.fixture
def buffer() -> EpisodeBuffer:
    return EpisodeBuffer()


def test_members_are_kept_apart_and_handed_out_once(buffer) -> None:
    for segment in range(3):
        for member in (1, 0):
            add(buffer, member, segment)
    assert len(buffer) == 6
    assert shape(buffer.drain()) == [("0-0", 0, [0, 1, 2]), ("1-0", 0, [0, 1, 2])]
    assert (len(buffer), buffer.drain()) == (0, [])


def test_an_open_episode_goes_on_where_it_was_handed_out(buffer) -> None:
    add(buffer, 0, 0)
    buffer.drain()
    add(buffer, 0, 1)
    assert shape(buffer.drain()) == [("0-0", 1, [1])]


def test_a_new_episode_ends_the_one_before(buffer) -> None:
    add(buffer, 0, 0)
    add(buffer, 0, 1, episode="0-1")
    assert shape(buffer.drain()) == [("0-0", 0, [0]), ("0-1", 0, [1])]


def test_what_is_trained_again_replaces_what_was_there(buffer) -> None:
    for segment in range(4):
        add(buffer, 0, segment, reward=1.0)
    buffer.rewind(0, 2)
    add(buffer, 0, 2, reward=5.0)
    (chunk,) = buffer.drain()
    assert [(t.decision.segment, t.reward) for t in chunk.transitions] == [(0, 1.0), (1, 1.0), (2, 5.0)]


def test_a_repeat_without_notice_replaces_too(buffer) -> None:
    for segment in (0, 1, 1):
        add(buffer, 0, segment)
    assert shape(buffer.drain()) == [("0-0", 0, [0, 1])]


def test_what_was_handed_out_and_wound_back_is_followed_by_an_episode_of_its_own(buffer) -> None:
    for segment in range(4):
        add(buffer, 0, segment)
    buffer.drain()
    add(buffer, 0, 4)
    buffer.rewind(0, 3)
    add(buffer, 0, 3)
    add(buffer, 0, 4)
    assert shape(buffer.drain()) == [("0-0.1", 0, [3, 4])]
    add(buffer, 0, 5)
    assert shape(buffer.drain()) == [("0-0.1", 2, [5])]


def test_an_end_that_is_wound_back_is_none(buffer) -> None:
    add(buffer, 0, 0)
    add(buffer, 0, 1, truncated=True)
    buffer.rewind(0, 1)
    add(buffer, 0, 1)
    assert shape(buffer.drain()) == [("0-0", 0, [0, 1])]


def test_what_follows_an_end_that_was_handed_out_is_another_episode(buffer) -> None:
    add(buffer, 0, 0, truncated=True)
    buffer.drain()
    add(buffer, 0, 1)
    assert shape(buffer.drain()) == [("0-0.1", 0, [1])]


def test_closing_marks_the_last_transition_as_cut_off(buffer) -> None:
    add(buffer, 0, 0)
    add(buffer, 0, 1)
    buffer.close(0)
    (chunk,) = buffer.drain()
    assert [t.truncated for t in chunk.transitions] == [False, True]


def test_closing_leaves_a_real_end_alone_and_needs_nothing_to_close(buffer) -> None:
    add(buffer, 0, 0, terminated=True)
    buffer.close(0)
    buffer.close(99)
    (chunk,) = buffer.drain()
    assert (chunk.transitions[0].terminated, chunk.transitions[0].truncated) == (True, False)
    buffer.rewind(99, 0)


def test_it_survives_json_in_the_middle_of_an_episode(buffer) -> None:
    for segment in range(4):
        add(buffer, 0, segment)
        if segment == 1:
            buffer.drain()
    add(buffer, 1, 0, terminated=True)
    restored = EpisodeBuffer.from_dict(json.loads(json.dumps(buffer.to_dict())))
    for each in (buffer, restored):
        each.rewind(0, 1)
        add(each, 0, 1)
    assert restored.drain() == buffer.drain()


class Life(RuleBasedStateMachine):
    """One member under any sequence of segments, ends, rewinds and hand-outs: chunks must be gapless and in order."""

    @initialize()
    def begin(self) -> None:
        self.buffer = EpisodeBuffer()
        self.segment = 0
        self.chunks: list[Chunk] = []

    @rule(end=st.sampled_from(["", "", "", "terminated", "truncated"]))
    def train(self, end: str) -> None:
        add(self.buffer, 0, self.segment, **({end: True} if end else {}))
        self.segment += 1

    @rule(share=st.floats(0, 1))
    def crash(self, share: float) -> None:
        self.segment = int(share * self.segment)
        self.buffer.rewind(0, self.segment)

    @rule()
    def drain(self) -> None:
        self.chunks += self.buffer.drain()

    @rule()
    def close(self) -> None:
        self.buffer.close(0)

    @rule()
    def restart(self) -> None:
        self.buffer = EpisodeBuffer.from_dict(json.loads(json.dumps(self.buffer.to_dict())))

    @invariant()
    def every_episode_is_in_one_piece(self) -> None:
        episodes: dict[str, list] = {}
        for chunk in self.chunks:
            assert chunk.transitions
            done = episodes.setdefault(chunk.episode, [])
            assert chunk.start == len(done)
            done += chunk.transitions
        for transitions in episodes.values():
            segments = [t.decision.segment for t in transitions]
            assert segments == list(range(segments[0], segments[0] + len(segments)))
            assert not any(t.terminated or t.truncated for t in transitions[:-1])


Life.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None, derandomize=True)
TestLife = Life.TestCase


@given(st.sets(st.integers(0, 11)), st.integers(0, 12))
def test_nothing_is_lost_between_hand_outs(drained: set[int], length: int) -> None:
    buffer = EpisodeBuffer()
    chunks = []
    for segment in range(length):
        add(buffer, 0, segment)
        chunks += buffer.drain() if segment in drained else []
    buffer.close(0)
    chunks += buffer.drain()
    assert [t.decision.segment for c in chunks for t in c.transitions] == list(range(length))
