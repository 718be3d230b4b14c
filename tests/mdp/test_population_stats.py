"""The statistics over a population count who has something to say."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raytune_rl.mdp import MemberState
from raytune_rl.mdp.population_stats import PopulationStats
from tests.mdp.lives import LOSS, MIDDLE, SPACE, live

STATES = [live([1.0, loss], member=i, positions=(i / 3,) * 4) for i, loss in enumerate((0.5, 0.2, 0.4, 0.8))]
SCORES = [LOSS.of(loss) for loss in (0.5, 0.2, 0.4, 0.8)]


def test_it_is_the_statistics_of_the_scores_and_positions() -> None:
    stats = PopulationStats.of(STATES, len(SPACE))
    assert (stats.size, stats.best) == (4, STATES[1])
    assert stats.median == pytest.approx(np.median(SCORES))
    assert (stats.mean, stats.spread) == pytest.approx((np.mean(SCORES), np.std(SCORES)))
    assert stats.mean_change == pytest.approx(np.mean(SCORES) - LOSS.of(1.0))
    assert stats.position_spread == pytest.approx([np.std([0, 1 / 3, 2 / 3, 1])] * 4)


def test_where_a_population_lies_and_where_its_best_three_are() -> None:
    many = [*STATES, *(live([1.0, 0.9], member=5 + i, positions=(1.0,) * 4) for i in range(2))]
    stats = PopulationStats.of(many, len(SPACE))
    assert stats.position_mean == pytest.approx([4 / 6] * 4)
    assert stats.lead == pytest.approx([np.mean([1 / 3, 2 / 3, 0]) - 4 / 6] * 4), "members 1, 2 and 0"
    failed = live([1.0, None], member=4, positions=(1.0,) * 4)
    assert PopulationStats.of([*STATES, failed], 4).position_mean == pytest.approx([0.5] * 4), "what it had was no good"
    assert PopulationStats.of([*STATES, failed], 4).lead == pytest.approx([(1 / 3 + 2 / 3) / 2 - 0.5] * 4), (
        "half of four: 1 and 2"
    )
    unheard = [MemberState.start(member, (member / 3,) * 4) for member in range(4)]
    stats = PopulationStats.of(unheard, 4)
    assert stats.position_mean == pytest.approx((0.5,) * 4) and stats.lead == (0.0,) * 4


def test_rank_is_the_share_of_the_others_that_are_better() -> None:
    stats = PopulationStats.of(STATES, len(SPACE))
    assert [stats.rank(state) for state in STATES] == pytest.approx([2 / 3, 0, 1 / 3, 1])
    newcomer = live([0.3], member=9)
    assert stats.rank(newcomer) == 0.25, "a member that is not among them is ranked against all"
    assert math.isnan(stats.rank(MemberState.start(9, MIDDLE)))


@given(
    scores=st.lists(st.sampled_from([None, 1.0, 2.0, 3.0]), max_size=7),
    member=st.integers(0, 7),
    score=st.sampled_from([1.0, 2.0, 3.0]),
)
def test_rank_counts_who_is_ahead_whatever_the_stats_knows_of_the_member(
    scores: list[float | None], member: int, score: float
) -> None:
    population = [replace(MemberState.start(m, MIDDLE), score=known) for m, known in enumerate(scores)]
    others = [(-s.score, s.member) for s in population if s.score is not None and s.member != member]
    ahead = sum(other < (-score, member) for other in others)
    state = replace(MemberState.start(member, MIDDLE), score=score)
    assert PopulationStats.of(population, 4).rank(state) == (ahead / len(others) if others else 0.0)


def test_equals_have_different_ranks() -> None:
    twins = [live([0.5], member=i) for i in range(3)]
    assert [PopulationStats.of(twins, 4).rank(twin) for twin in twins] == [0, 0.5, 1]


def test_the_dead_count_for_nothing_and_the_failed_for_their_rank_only() -> None:
    failed = live([1.0, None], member=4)
    dead = replace(live([0.01], member=5), alive=False)
    stats = PopulationStats.of([*STATES, failed, dead], len(SPACE))
    assert (stats.size, stats.best, stats.rank(failed)) == (5, STATES[1], 1.0)
    assert stats.median == pytest.approx(np.median(SCORES))


def test_an_empty_population_has_no_statistics() -> None:
    stats = PopulationStats.of([], len(SPACE))
    assert (stats.size, stats.best, stats.ranked) == (0, None, ())
    assert all(math.isnan(x) for x in (stats.median, stats.mean, stats.spread, stats.train_loss, stats.seconds))
