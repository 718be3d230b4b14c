from __future__ import annotations

import time

import numpy as np

from raytune_rl.ensemble.candidates import averaged, family_soups, kinship, ordered
from raytune_rl.ensemble.kept import Kept
from tests.ensemble.members import row, table, trained


def scalar(member: int, value: float, **state) -> Kept:
    network = {"w": np.array([value], dtype=np.float32), "count": np.array(member)}
    return Kept(member=member, segment=0, origin="final", state={"network": network, **state})


def test_every_state_comes_once_the_best_first() -> None:
    def kept(member: int, segment: int, origin: str, value: float) -> Kept:
        return Kept(member=member, segment=segment, origin=origin, state={"metrics": {"loss": value}})

    states = [
        kept(0, 3, "final", 0.2),
        kept(0, 3, "best", 0.2),
        kept(1, 2, "best", 0.1),
        kept(1, 3, "final", float("nan")),
        kept(2, -1, "final", 0.0),
    ]
    found = [(one.member, one.segment, one.origin) for one in ordered(states, "loss", "min")]
    assert found == [(1, 2, "best"), (0, 3, "best"), (1, 3, "final")]
    assert [one.member for one in ordered(states[:3], "loss", "max")] == [0, 1]


def test_relatives_are_one_members_times_and_those_who_copied() -> None:
    _, segments = trained()
    related = kinship(segments, [(0, 0), (0, 3), (1, 0), (1, 3), (2, 3)])
    assert related((0, 0), (0, 3))
    assert related((0, 3), (1, 3))  # member 1 took the weights of member 0 after its first segment
    assert not related((1, 0), (1, 3))  # its own before that are lost
    assert not related((0, 3), (2, 3))


def test_weights_that_were_never_trained_together_are_no_relatives() -> None:
    segments = table([row(member, 0, None, {"lr": 0.1}) for member in range(2)])
    assert not kinship(segments, [(0, 0), (1, 0)])((0, 0), (1, 0))


def test_an_average_is_of_the_floating_point_numbers() -> None:
    mean = averaged([scalar(1, 1.0), scalar(2, 4.0)])
    assert mean.origin == "soup" and mean.state["network"]["w"] == 2.5 and mean.state["network"]["count"] == 1
    assert mean.state["network"]["w"].dtype == np.float32


def test_a_soup_is_kept_only_where_it_helps() -> None:
    """The loss is the distance from zero: 1 and -1 average to 0, a further 3 would spoil it."""
    candidates = [scalar(0, 1.0), scalar(1, -1.1), scalar(2, 3.0), scalar(3, 0.5)]

    def judge(one: Kept) -> float:
        return abs(float(one.state["network"]["w"][0]))

    losses = [judge(one) for one in candidates]
    everybody = family_soups(candidates[:3], losses[:3], related=lambda a, b: True, judge=judge)
    assert [parts for _, parts in everybody] == [((0, 0), (1, 0))]
    strangers = family_soups(candidates, losses, related=lambda a, b: False, judge=judge)
    assert strangers == []
    same_sign = family_soups([candidates[0], candidates[2]], [1.0, 3.0], related=lambda a, b: True, judge=judge)
    assert same_sign == []


def test_there_are_no_soups_after_the_deadline() -> None:
    candidates = [scalar(0, 1.0), scalar(1, -1.1)]
    tried: list[Kept] = []

    def judge(one: Kept) -> float:
        tried.append(one)
        return 0.0

    late = time.monotonic() - 1.0
    soups = family_soups(candidates, [1.0, 1.1], related=lambda a, b: True, judge=judge, deadline=late)
    assert soups == [] and tried == []
