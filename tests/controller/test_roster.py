"""Members' pasts and episodes go together."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np

from raytune_rl.controller.islands import Surroundings
from raytune_rl.controller.ledger import Ledger
from raytune_rl.controller.roster import Roster
from raytune_rl.controller.taken import Taken
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


def roster(members: int = 2, segments: int = 0) -> Roster:
    found = Roster()
    for member in range(members):
        found.join(member, Ledger.begin(decision(member, 0)))
        for segment in range(segments):
            live(found, member, segment)
    return found


def live(found: Roster, member: int, segment: int) -> None:
    """A segment of a member, with its transition."""
    before = found.rewound(report(member, segment))
    after = replace(before, segment=segment + 1)
    found[member].push(after)
    found[member].open(decision(member, segment + 1))
    found.collect(
        Taken(
            reports=(report(member, segment),),
            opened=(decision(member, segment),),
            states=(after,),
            observations=(np.zeros(1, dtype=np.float32),),
            rewards=(float(segment),),
            endings=(None,),
            surroundings=(Surroundings.of([after], positions=0),),
        )
    )


def drained(found: Roster) -> dict[str, list[float]]:
    return {chunk.episode: [t.reward for t in chunk.transitions] for chunk in found.drain()}


def test_what_is_lived_again_replaces_state_and_transitions() -> None:
    found = roster(segments=4)
    live(found, 0, 2)
    assert {member: state.segment for member, state in found.states.items()} == {0: 3, 1: 4}
    assert drained(found) == {"0-0": [0.0, 1.0, 2.0], "1-0": [0.0, 1.0, 2.0, 3.0]}


def test_who_is_dropped_is_gone_until_it_reports_again() -> None:
    found = roster(segments=1)
    found.drop([1, 7])  # a member that never joined has nothing to lose
    assert [state.member for state in found.alive] == [0] and 7 not in found
    live(found, 1, 1)
    assert [state.member for state in found.alive] == [0, 1]
    assert drained(found) == {"0-0": [0.0], "1-0": [0.0], "1-0.1": [1.0]}


def test_an_episode_that_is_broken_off_is_followed_by_another() -> None:
    found = roster(members=1, segments=2)
    found.break_off(0)
    live(found, 0, 2)
    assert list(drained(found).values()) == [[0.0, 1.0], [2.0]]


def test_its_state_goes_on() -> None:
    found, other = roster(segments=3), Roster()
    found.lost([1])
    other.set_state(found.get_state())
    assert other.states == found.states and (other[0].lost, other[1].lost) == (0, 1)
    assert drained(other) == drained(found)
    assert json.dumps(found.get_state()["buffer"], default=str)
