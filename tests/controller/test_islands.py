"""Large populations in small groups."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raytune_rl.controller import PBT
from raytune_rl.controller.islands import Islands
from raytune_rl.controller.policy import PolicyRequirements
from raytune_rl.mdp.state import MemberState
from tests.controller.worlds import Paper, make_controller


@given(population=st.integers(1, 256), size=st.none() | st.integers(1, 64))
def test_neighbours_are_together_in_groups_of_one_size(population: int, size: int | None) -> None:
    islands = Islands(population, size)
    places = [islands.of(member) for member in range(population)]
    assert places == sorted(places)
    assert set(places) == set(range(islands.count))
    sizes = Counter(places).values()
    assert max(sizes) - min(sizes) <= 1
    if size is not None and population > size:
        assert size / 2 < max(sizes) <= 1.5 * size


def test_there_is_one_island_unless_a_size_is_given() -> None:
    assert Islands(64, None).count == 1
    assert [Islands(members, 8).count for members in (1, 8, 11, 12, 16, 64)] == [1, 1, 1, 2, 2, 8]


def test_a_member_that_comes_late_joins_the_last_island() -> None:
    assert Islands(16, 8).of(17) == 1


def test_an_island_has_its_own_incumbent() -> None:
    population = [state(0, 1.0), state(1, 3.0), state(2, 2.0), state(3, None)]
    islands = Islands(4, 2)
    first, second = (islands.view(i, population, positions=0, incumbent=(1, 3.0)) for i in (0, 1))
    assert (first.incumbent_member, first.incumbent_score, first.stats.size) == (1, 3.0, 2)
    assert (second.incumbent_member, second.incumbent_score, second.population) == (2, 2.0, tuple(population[2:]))
    whole = Islands(4, None).view(0, population, positions=0, incumbent=(9, 4.0))
    assert (whole.incumbent_member, whole.incumbent_score, whole.stats.size) == (9, 4.0, 4)


@pytest.mark.parametrize("size", [4, None])
def test_copies_stay_on_their_island(size: int | None) -> None:
    policy = PBT()
    policy.requirements = PolicyRequirements(island_size=size)
    steps = Paper(make_controller(policy, population=12), members=12).play()
    copies = {(d.member, d.source.member) for step in steps for d in step.decisions if d.source.kind != "keep"}
    assert copies
    crossing = [(member, donor) for member, donor in copies if member // 4 != (donor or 0) // 4]
    assert bool(crossing) == (size is None)


def state(member: int, best: float | None) -> MemberState:
    return replace(MemberState.start(member, ()), score=best, best_score=best)
