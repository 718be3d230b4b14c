"""Actions become moves; what is not possible now becomes doing nothing."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raytune_rl.hyperparameters import LEVELS, STAY
from raytune_rl.mdp import SOURCES, ActionSpec, MemberState, Move
from raytune_rl.records import KEEP, Source
from tests.mdp.lives import MIDDLE, SPACE, few, live, populations, wild

SPEC = ActionSpec(SPACE, stopping=True)
STAYING = (STAY,) * len(SPACE)
GOOD = live([0.9, 0.1], member=1, positions=(0.8, 0.0, 1.0, 1.0))
FAIR = live([0.9, 0.3], member=2, positions=(0.2, 1.0, 0.0, 0.0))
POOR = live([0.9, 0.8], member=0)
POPULATION = [POOR, GOOD, FAIR]

actions = st.tuples(*(st.integers(0, size - 1) for size in SPEC.nvec))


def take(
    source: str, state: MemberState = POOR, population: list[MemberState] | None = None, moves=STAYING, incumbent=1
) -> Move:
    action = (*moves, SPEC.sources.index(source), 0)
    others = POPULATION if population is None else population
    return SPEC.apply(action, first=False, state=state, population=others, incumbent_member=incumbent)


def test_heads_are_named_and_sized() -> None:
    assert SPEC.names == ("hp/lr", "hp/dropout", "hp/width", "hp/activation", "source", "stop")
    assert SPEC.nvec == (LEVELS,) * 4 + (len(SOURCES), 2)
    assert SPEC.neutral == (STAY,) * 4 + (0, 0)
    assert ActionSpec(SPACE, sources=("best", "keep")).neutral[-1] == 1


def test_the_neutral_action_does_nothing() -> None:
    move = SPEC.apply(SPEC.neutral, first=False, state=POOR, population=POPULATION, incumbent_member=1)
    assert move == Move(positions=POOR.positions)


def test_the_first_action_sets_levels_and_nothing_else() -> None:
    fresh = MemberState.start(0, MIDDLE)
    action = (0, 0, 6, 6, SPEC.sources.index("best"), 1)
    move = SPEC.apply(action, first=True, state=fresh, population=POPULATION, incumbent_member=1)
    assert move.positions == tuple(h.level(i) for h, i in zip(SPACE.hyperparameters, action, strict=False))
    assert move.positions[1] == 0.0, "regularisation can start switched off"
    assert (move.source, move.stop) == (KEEP, False)


def test_best_and_second_are_other_members() -> None:
    assert take("best").source == Source(kind="member", member=1, name="best")
    assert take("second").source == Source(kind="member", member=2, name="second")
    assert take("best", state=FAIR).source.member == 1


def test_a_copy_brings_the_donors_hyperparameters_and_then_moves_them() -> None:
    assert take("best").positions == GOOD.positions
    moved = take("best", moves=(STAY + 1, STAY + 3, STAY + 3, STAY))
    assert moved.positions[0] == SPACE["lr"].move(GOOD.positions[0], STAY + 1)
    assert moved.positions[1] == SPACE["dropout"].move(GOOD.positions[1], STAY + 3)


def test_start_only_hyperparameters_go_with_the_weights_and_never_by_themselves() -> None:
    moves = (STAY, STAY, LEVELS - 1, STAY)
    assert take("keep", moves=moves).positions == POOR.positions
    assert take("best", moves=moves).positions[2] == GOOD.positions[2]


def test_a_roll_back_keeps_the_own_hyperparameters_but_those_that_describe_the_weights() -> None:
    state = live([0.2], positions=(0.1, 0.1, 0.1, 0.0))
    state = replace(state, score=-1.0, positions=(0.9, 0.9, 0.9, 1.0))
    move = take("own_best", state=state)
    assert move.source == Source(kind="checkpoint", member=0, name="own_best")
    assert move.positions == (0.9, 0.9, 0.1, 1.0)


def test_the_incumbent_is_its_members_best_checkpoint() -> None:
    fallen = replace(GOOD, score=POOR.score, positions=(0.3, 0.3, 0.3, 0.0))
    move = take("incumbent", population=[POOR, fallen, FAIR])
    assert move.source == Source(kind="checkpoint", member=1, name="incumbent")
    assert move.positions == (0.3, 0.3, GOOD.best_positions[2], 0.0)


def test_ones_own_record_is_a_roll_back() -> None:
    fallen = replace(GOOD, score=-1.0)
    move = take("incumbent", state=fallen, population=[POOR, fallen])
    assert move.source == Source(kind="checkpoint", member=1, name="incumbent")
    assert move.positions[0] == fallen.positions[0]


@pytest.mark.parametrize(
    ("source", "state", "population", "incumbent"),
    [
        ("best", GOOD, POPULATION, 1),  # is the best itself
        ("second", FAIR, POPULATION, 1),  # the second best other is worse
        ("second", POOR, [POOR, GOOD], 1),  # there is only one other
        ("best", POOR, [POOR], 1),  # is alone
        ("best", POOR, [], 1),
        ("best", POOR, [POOR, replace(GOOD, alive=False)], 1),
        ("best", POOR, [POOR, replace(GOOD, status="failed")], 1),
        ("best", POOR, [POOR, MemberState.start(1, MIDDLE)], 1),
        ("incumbent", POOR, POPULATION, None),  # nobody holds a record
        ("incumbent", POOR, [POOR, FAIR], 1),  # its holder is gone
        ("incumbent", GOOD, POPULATION, 1),  # holds it with its present weights
        ("own_best", GOOD, POPULATION, 1),  # is at its best
        ("own_best", MemberState.start(0, MIDDLE), POPULATION, 1),  # has no checkpoint
    ],
)
def test_a_source_that_is_not_possible_now_is_keep(source, state, population, incumbent) -> None:
    assert take(source, state, population, incumbent=incumbent) == Move(positions=state.positions)


@pytest.mark.parametrize(
    ("copy_every", "allowed"), [(1, [1, 2, 3, 4, 5, 6]), (2, [2, 4, 6]), (4, [4]), ((2, 5), [2, 5]), ((), [])]
)
def test_copies_are_possible_at_their_segments_only(copy_every, allowed) -> None:
    spec = ActionSpec(SPACE, copy_every=copy_every)
    assert [segment for segment in range(7) if spec.copy_allowed(segment)] == allowed
    for segment in range(1, 7):
        action = (*STAYING, spec.sources.index("best"))
        state = replace(POOR, segment=segment)
        move = spec.apply(action, first=False, state=state, population=POPULATION, incumbent_member=1)
        assert (move.source != KEEP) is (segment in allowed)


def test_only_a_head_that_is_there_can_stop() -> None:
    assert SPEC.apply((*STAYING, 0, 1), first=False, state=POOR, population=[], incumbent_member=None).stop
    spec = ActionSpec(SPACE)
    assert not spec.apply((*STAYING, 1), first=False, state=POOR, population=[], incumbent_member=None).stop


@few
@given(actions, populations(), st.booleans(), st.none() | st.integers(0, 4))
def test_any_action_leads_inside_the_range_and_never_to_itself_or_nobody(action, population, first, incumbent) -> None:
    state = population[0]
    move = SPEC.apply(action, first=first, state=state, population=population, incumbent_member=incumbent)
    assert len(move.positions) == len(SPACE)
    assert all(0.0 <= x <= 1.0 for x in move.positions)
    if move.source.kind == "member":
        assert move.source.member != state.member
        donor = next(s for s in population if s.member == move.source.member)
        assert donor.score > state.score
    if move.source.kind == "checkpoint":
        assert next(s for s in population if s.member == move.source.member).best_score is not None


@given(st.lists(wild, min_size=6, max_size=6))
def test_any_point_of_a_box_is_an_action(point) -> None:
    action = SPEC.from_box(np.array(point))
    assert all(0 <= index < size for index, size in zip(action, SPEC.nvec, strict=True))
    for x, index, head in zip(point, action, SPEC.heads, strict=True):
        if np.isnan(x):
            assert index == head.neutral


def test_the_bins_of_a_box_are_equal() -> None:
    grid = np.linspace(-1, 1, 14_001)
    found = [SPEC.from_box(np.full(6, x))[0] for x in grid]
    assert np.bincount(found) == pytest.approx(np.full(LEVELS, 2000), abs=2)


def applied(action: tuple[int, ...]) -> Move:
    return SPEC.apply(action, first=True, state=POOR, population=[], incumbent_member=None)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ActionSpec(SPACE, sources=("best",)), "with keep"),
        (lambda: ActionSpec(SPACE, sources=("keep", "keep")), "must be different"),
        (lambda: ActionSpec(SPACE, sources=("keep", "worst")), "keep, worst must be"),
        (lambda: ActionSpec(SPACE, copy_every=0), "copy_every=0 must be an interval of at least 1"),
        (lambda: ActionSpec(SPACE, copy_every=(0, 3)), "segments from 1 on"),
        (lambda: applied((0, 0)), "an action has 6 indices"),
        (lambda: applied((7, 0, 0, 0, 0, 0)), "the index 7 of the head 'hp/lr' must be between 0 and 6"),
        (lambda: SPEC.from_box(np.zeros(3)), r"a box action has the shape \(6,\), not \(3,\)"),
    ],
)
def test_what_is_no_action_is_refused_in_one_sentence(make, message) -> None:
    with pytest.raises(ValueError, match=message):
        make()
