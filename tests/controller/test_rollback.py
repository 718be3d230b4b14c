"""The safe floor: when it applies, when it must not, and what the controller decides then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raytune_rl import BadInput
from raytune_rl.controller import Floor, Situation
from raytune_rl.controller.policies import Random, Replay, Rule
from raytune_rl.controller.rollback import MIN_SCATTER, score_fall
from raytune_rl.hyperparameters import STAY
from raytune_rl.mdp import MemberState, Score, advance
from raytune_rl.mdp.action import ActionSpec
from raytune_rl.records import Chunk, Decision, Report
from tests.controller.worlds import SPACE, Paper, make_controller
from tests.mdp.lives import few

FLOOR = Floor()
LOSS = Score(metric="loss", mode="min")


def life(
    values: Sequence[float],
    changed: Mapping[int, float] | None = None,
    copied: Mapping[int, int] | None = None,
    *,
    member: int = 0,
    score: Score = LOSS,
) -> MemberState:
    """A member that has reported these values; ``changed``: its new position from a segment on; ``copied``: from whom
    it had its weights."""
    state, position = MemberState.start(member, (0.5,)), 0.5
    for segment, value in enumerate(values):
        position = (changed or {}).get(segment, position)
        report = Report(
            member=member,
            segment=segment,
            steps=segment,
            metrics={score.metric: value},
            copied_from=(copied or {}).get(segment),
        )
        state = advance(state, report, score=score, positions=(position,))
    return state


def test_a_change_that_ruins_a_member_is_taken_back() -> None:
    assert FLOOR.applies(life([2.0, 1.0, 0.5, 2.0], {3: 0.9}), [])
    assert FLOOR.applies(life([2.0, 1.0, 0.5, 0.52, 2.0], {3: 0.9}), [])  # it need not happen at once
    assert FLOOR.applies(life([2.0, 1.0, 0.5, 0.4, 2.0], {}, {3: 1}), [])  # weights of somebody else


def test_what_nobody_changed_is_not_the_floors_business() -> None:
    assert not FLOOR.applies(life([2.0, 1.0, 0.5, 2.0]), [])
    assert not FLOOR.applies(life([2.0, 1.0, 0.5, 2.0], {1: 0.9}), [])  # the best came after the change
    long_ago = [2.0, 1.0, 0.5, *[0.52] * FLOOR.watch, 2.0]
    assert not FLOOR.applies(life(long_ago, {3: 0.9}), [])


def test_a_return_is_no_change() -> None:
    """A member that is back at its best values, on its own best weights, is not ruined by having been taken back."""
    state = life([2.0, 1.0, 0.5, 2.0, 2.0], {3: 0.9, 4: 0.5}, {4: 0})
    assert state.changed_segment == 3


def test_the_loss_of_half_of_a_small_gain_counts() -> None:
    """Accuracies span little on the scale of scores: nobody could fall by ``margin`` there."""
    accuracy = Score(metric="accuracy", mode="max")
    assert FLOOR.applies(life([0.1, 0.6, 0.95, 0.3], {3: 0.9}, score=accuracy), [])
    assert not FLOOR.applies(life([0.1, 0.6, 0.95, 0.85], {3: 0.9}, score=accuracy), [])


def test_whoever_comes_back_by_himself_is_left_alone() -> None:
    calm = life([2.0, 1.0, 0.9, 0.5, 1.3], {4: 0.9})
    wild = life([2.0, 0.6, 1.0, 0.5, 1.3], {4: 0.9})
    assert FLOOR.applies(calm, []) and not FLOOR.applies(wild, [])
    others = [life([2.0, 0.6, 1.0, 0.5], member=m) for m in (1, 2, 3)]
    assert not FLOOR.applies(calm, others)  # what the population gets over is no collapse


def test_a_collapse_of_everybody_does_not_excuse_itself() -> None:
    ruined = [life([2.0, 1.0, 0.5, 3.0], {3: 0.9}, member=m) for m in range(4)]
    assert all(FLOOR.applies(state, ruined) for state in ruined)


def test_rest_after_a_return() -> None:
    state = life([2.0, 1.0, 0.5, 2.0], {3: 0.9})
    assert not FLOOR.applies(replace(state, returned_segment=state.segment - FLOOR.rest + 1), [])
    assert FLOOR.applies(replace(state, returned_segment=state.segment - FLOOR.rest), [])


def test_a_member_that_failed_is_left_to_the_failure_policy() -> None:
    state = life([2.0, 1.0, 0.5, float("nan")], {3: 0.9})
    assert state.status == "diverged" and not FLOOR.applies(state, [])


@few
@given(st.lists(st.floats(0.0, 1e4), min_size=1, max_size=8), st.integers(1, 7))
def test_never_on_a_healthy_member(values: list[float], change: int) -> None:
    """Whatever happened before: not at its best, nor within the least scatter of it, nor where nothing was changed."""
    whole = life(values, {change: 0.9})
    if score_fall(whole) <= FLOOR.noise * MIN_SCATTER or change >= len(values):
        assert not FLOOR.applies(whole, [])
    assert not FLOOR.applies(life(values), [])
    assert not FLOOR.applies(life([*values, min(values)], {change: 0.9}), [])


@pytest.mark.parametrize(
    "wrong", [{"margin": -1.0}, {"share": float("nan")}, {"noise": -0.1}, {"watch": 0}, {"rest": 0}]
)
def test_bad_settings_are_named(wrong: dict[str, float]) -> None:
    (name,) = wrong
    with pytest.raises(BadInput, match=rf"floor\.{name}"):
        Floor(**wrong)  # type: ignore[arg-type]


class Steps(Rule):
    """Moves member 1 up by the largest step before ``segment``, and keeps what it is given to learn from."""

    def __init__(self, segment: int = 3, later: tuple[int, ...] | None = None) -> None:
        self.segment, self.later = segment, later
        self.chunks: list[Chunk] = []

    def choose(self, situation: Situation, rng) -> tuple[int, ...]:  # type: ignore[no-untyped-def]
        action = list(self._action.neutral)
        if situation.member == 1 and situation.segment == self.segment:
            action[0] = 2 * STAY
        if situation.member == 1 and situation.segment > self.segment and self.later:
            return self.later
        return tuple(action)

    def learn(self, chunks, *, wait: bool = False) -> None:  # type: ignore[no-untyped-def]
        self.chunks += chunks


def ruined(policy: Rule, **changes: object) -> tuple[Paper, list[Decision]]:
    """Member 1 reports a loss of 9 in every segment from the fourth; its decisions."""
    paper = Paper(make_controller(policy, **{"floor": FLOOR, "segments": 10, **changes}))
    decisions = []
    for segment in range(9):
        step = paper.generation({1: {"metrics": {"loss": 9.0}}} if segment >= 3 else {})
        decisions += [d for d in step.decisions if d.member == 1]
        paper.controller.learn()
    return paper, decisions


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_ruined_member_gets_the_weights_and_the_values_of_its_best(schedule: str) -> None:
    paper, decisions = ruined(Steps(), schedule=schedule)
    moved, back = decisions[2], decisions[3]
    assert moved.positions != back.positions == paper.controller.begin(1).positions
    assert (back.source.kind, back.source.member, back.source.name) == ("checkpoint", 1, "floor")
    assert (back.segment, back.action, back.stop) == (4, (), False)
    assert [d.source.name for d in decisions if d is not back] == ["keep"] * (len(decisions) - 1)


def test_nobody_learns_from_what_was_not_carried_out() -> None:
    policy = Steps()
    ruined(policy)
    told = [chunk for chunk in policy.chunks if chunk.member == 1]
    segments = [t.decision.segment for chunk in told for t in chunk.transitions]
    assert segments == [1, 2, 3, 5, 6, 7, 8]
    ends = [t.decision.segment for chunk in told for t in chunk.transitions if t.truncated or t.terminated]
    assert ends == [3]
    episodes = {t.decision.segment: chunk.episode for chunk in told for t in chunk.transitions}
    assert episodes[3] != episodes[5]


def test_what_brings_other_weights_or_the_end_is_not_overruled() -> None:
    spec = ActionSpec(SPACE, copy_every=1, stopping=True)
    copies = [*spec.neutral[:-2], spec.sources.index("best"), 0]
    for later, kind in ((tuple(copies), "member"), ((*spec.neutral[:-1], 1), "keep")):
        paper = Paper(make_controller(Steps(later=later), floor=FLOOR, segments=10, actions=spec))
        for _ in range(3):
            paper.generation()
        decision = paper.generation({1: {"metrics": {"loss": 9.0}}}).decisions[1]
        assert (decision.source.kind, decision.stop) == (kind, kind == "keep")


def test_what_is_prescribed_stands() -> None:
    values = [{"lr": lr, "dropout": 0.0, "init": "xavier"} for lr in (0.01, 0.01, 0.01, 0.5)]
    _, decisions = ruined(Replay(values))
    assert {d.source.name for d in decisions} == {"keep"}


def test_without_a_floor_nothing_is_taken_back() -> None:
    _, decisions = ruined(Steps(), floor=None)
    assert {d.source.name for d in decisions} == {"keep"}


def test_a_rewound_member_is_taken_back_again() -> None:
    """A crash between the decision and the next checkpoint must not forget that the member was taken back, nor do it
    at another place."""
    straight, _ = ruined(Steps())
    paper = Paper(make_controller(Steps(), floor=FLOOR, segments=10))
    lost = {1: {"metrics": {"loss": 9.0}}}
    for segment in range(5):
        paper.generation(lost if segment >= 3 else {})
    again = paper.report(1, segment=3, decision=3, metrics={"loss": 9.0})
    (back,) = paper.controller.step([again]).decisions
    assert (back.segment, back.source.name) == (4, "floor")
    assert paper.controller.members[1].returned_segment == straight.controller.members[1].returned_segment == 4


@few
@given(st.lists(st.lists(st.floats(0.0, 20.0), min_size=4, max_size=4), min_size=2, max_size=14), st.integers(0, 5))
def test_whatever_is_reported(losses: list[list[float]], seed: int) -> None:
    """Returns are ``rest`` segments apart, go to the values of the best segment, and come to those below it only."""
    paper = Paper(make_controller(Random(), floor=FLOOR, segments=20, seed=seed))
    returned: dict[int, int] = {}
    opened = {0: dict(paper.decisions)}
    for segment, row in enumerate(losses):
        step = paper.generation({m: {"metrics": {"loss": loss}} for m, loss in enumerate(row)})
        opened[segment + 1] = dict(paper.decisions)
        for decision in step.decisions:
            if decision.source.name != "floor":
                continue
            member, state = decision.member, paper.controller.members[decision.member]
            assert decision.segment - returned.get(member, -FLOOR.rest) >= FLOOR.rest
            returned[member] = decision.segment
            reported = [row[member] for row in losses[: segment + 1]]
            assert state.best_segment is not None and reported[-1] > reported[state.best_segment]
            assert reported[state.best_segment] == pytest.approx(min(reported), abs=1e-9)  # scores are no finer
            assert decision.positions == opened[state.best_segment][member].positions
