"""Histories and episodes of members are rewound together."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np

from raytune_rl.controller.histories import MemberHistories, MemberHistory
from raytune_rl.controller.islands import IslandView
from raytune_rl.controller.step_inputs import StepInputs
from raytune_rl.records import Decision, Report


def decision(member: int, segment: int) -> Decision:
    return Decision(
        member=member, segment=segment, hyperparameters={"lr": 0.1}, positions=(0.5,), observation=(0.0,), action=(3,)
    )


def report(member: int, segment: int) -> Report:
    return Report(
        member=member,
        segment=segment,
        steps=segment + 1,
        metrics={"loss": 1.0},
        signals={},
        hyperparameters={"lr": 0.1},
        decision=segment,
        status="ok",
    )


def histories(members: int = 2, segments: int = 0) -> MemberHistories:
    kept = MemberHistories()
    for member in range(members):
        kept.add(member, MemberHistory.begin(decision(member, 0)))
        for segment in range(segments):
            live(kept, member, segment)
    return kept


def live(kept: MemberHistories, member: int, segment: int) -> None:
    """A segment of a member, with its transition."""
    before = kept.state_before(report(member, segment))
    after = replace(before, segment=segment + 1)
    kept[member].add_state(after)
    kept[member].add_decision(decision(member, segment + 1))
    kept.collect(
        StepInputs(
            reports=(report(member, segment),),
            opened=(decision(member, segment),),
            states=(after,),
            observations=(np.zeros(1, dtype=np.float32),),
            rewards=(float(segment),),
            endings=(None,),
            views=(IslandView.of([after], positions=0),),
        )
    )


def drained(kept: MemberHistories) -> dict[str, list[float]]:
    return {chunk.episode: [t.reward for t in chunk.transitions] for chunk in kept.drain()}


def test_a_repeated_segment_replaces_state_and_transitions() -> None:
    kept = histories(segments=4)
    live(kept, 0, 2)
    assert {member: state.segment for member, state in kept.states.items()} == {0: 3, 1: 4}
    assert drained(kept) == {"0-0": [0.0, 1.0, 2.0], "1-0": [0.0, 1.0, 2.0, 3.0]}


def test_a_dropped_member_is_not_alive_until_it_reports_again() -> None:
    kept = histories(segments=1)
    kept.drop([1, 7])  # a member that never joined has nothing to lose
    assert [state.member for state in kept.alive] == [0] and 7 not in kept
    live(kept, 1, 1)
    assert [state.member for state in kept.alive] == [0, 1]
    assert drained(kept) == {"0-0": [0.0], "1-0": [0.0], "1-0.1": [1.0]}


def test_a_truncated_episode_is_followed_by_another() -> None:
    kept = histories(members=1, segments=2)
    kept.truncate_episode(0)
    live(kept, 0, 2)
    assert list(drained(kept).values()) == [[0.0, 1.0], [2.0]]


def test_the_state_survives_a_restart() -> None:
    kept, other = histories(segments=3), MemberHistories()
    other.set_state(kept.get_state())
    assert other.states == kept.states
    assert drained(other) == drained(kept)
    assert json.dumps(kept.get_state()["buffer"], default=str)
