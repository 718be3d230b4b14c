"""Reports in; states, the incumbent, rewards and observations out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from raytune_rl.combining.contribution import EvaluationTargets
from raytune_rl.controller.histories import MemberHistories, MemberHistory
from raytune_rl.controller.incumbent import IncumbentTracker
from raytune_rl.controller.islands import Islands
from raytune_rl.controller.observer import Observer
from raytune_rl.controller.step_inputs import StepInputs
from raytune_rl.mdp.action import ActionSpec
from raytune_rl.mdp.ensemble_stats import EnsembleStats
from raytune_rl.mdp.observation import ObservationSpec
from raytune_rl.mdp.reward import RewardContext
from raytune_rl.mdp.state import MemberState, training_seconds
from raytune_rl.records import Decision, Report
from tests.controller.worlds import SPACE


class Noted:
    """A reward of nothing that keeps what it was told."""

    def __init__(self) -> None:
        self.contexts: list[RewardContext] = []

    def __call__(self, before: MemberState, after: MemberState, context: RewardContext) -> float:
        self.contexts.append(context)
        return 0.0


def observer(
    members: int,
    *,
    timed: bool = True,
    island: int | None = None,
    reward: Noted | None = None,
    evaluation_targets: EvaluationTargets | None = None,
) -> Observer:
    found = Observer(
        MemberHistories(),
        IncumbentTracker(metric="loss", mode="min"),
        observation=ObservationSpec(SPACE),
        actions=ActionSpec(SPACE, copy_every=2),
        reward=reward or Noted(),
        islands=Islands(members, island),
        segments=4,
        timed=timed,
        evaluation_targets=evaluation_targets,
    )
    for member in range(members):
        found.histories.add(member, MemberHistory.begin(decision(member)))
    return found


def decision(member: int) -> Decision:
    positions = tuple(0.5 for _ in SPACE.names)
    return Decision(member=member, segment=0, hyperparameters=SPACE.decode(positions), positions=positions)


def first_segment(
    found: Observer, losses: Sequence[float], *, seconds: float = 0.0, signals: Mapping[str, float] | None = None
) -> StepInputs:
    reports = [
        Report(
            member=member,
            segment=0,
            steps=10,
            metrics={"loss": loss},
            signals=signals or {},
            seconds=seconds,
        )
        for member, loss in enumerate(losses)
    ]
    before = [found.histories.state_before(report) for report in reports]
    opened = [decision(member) for member in range(len(losses))]
    found.enter(reports, opened, before)
    return found.step_inputs(reports, opened, before, [None, *["budget"] * (len(losses) - 1)])


def seen(inputs: StepInputs, member: int, feature: str) -> float:
    return float(inputs.observations[member][ObservationSpec(SPACE).index(feature)])


def test_members_that_report_together_see_each_other() -> None:
    inputs = first_segment(observer(2), [1.0, 0.5])
    assert [seen(inputs, member, "rank") for member in (0, 1)] == [1.0, 0.0]
    assert seen(inputs, 0, "to_incumbent") == pytest.approx(np.log(0.52) - np.log(1.02))
    assert [state.segment for state in inputs.states] == [1, 1]


def test_members_see_their_own_island_only() -> None:
    inputs = first_segment(observer(4, island=2), [1.0, 0.5, 0.1, 2.0])
    assert [seen(inputs, member, "is_best") for member in range(4)] == [0.0, 1.0, 1.0, 0.0]
    assert seen(inputs, 1, "to_incumbent") == 0.0  # the incumbent is the other island's


@pytest.mark.parametrize("timed", [True, False])
def test_times_enter_only_where_they_may(timed: bool) -> None:
    reward = Noted()
    inputs = first_segment(observer(2, timed=timed, reward=reward), [1.0, 0.5], seconds=3.0)
    assert [context.seconds for context in reward.contexts] == ([3.0, 3.0] if timed else [0.0, 0.0])
    assert [state.seconds for state in inputs.states] == ([3.0, 3.0] if timed else [0.0, 0.0])
    assert [report.seconds for report in inputs.reports] == [3.0, 3.0]  # the tables show them either way


@pytest.mark.parametrize("timed", [True, False])
def test_so_do_times_among_the_signals(timed: bool) -> None:
    inputs = first_segment(observer(1, timed=timed), [1.0], signals={"train_seconds": 3.0})
    assert [training_seconds(state) for state in inputs.states] == [3.0 if timed else 0.0]


def test_the_reward_knows_whether_the_episode_ends() -> None:
    reward = Noted()
    first_segment(observer(2, reward=reward), [1.0, 0.5])
    assert [context.final for context in reward.contexts] == [False, True]
    assert [context.incumbent_score for context in reward.contexts] == pytest.approx([-np.log(0.52)] * 2)


def test_a_member_that_has_not_started_knows_the_task_only() -> None:
    state = observer(1).unstarted(0)
    assert state.positions == tuple(0.5 for _ in SPACE.names)
    assert state.score is None and state.ensemble is None


def test_a_new_member_has_ensemble_stats_where_the_objective_is_the_ensemble() -> None:
    evaluation_targets = EvaluationTargets(targets=np.array([0, 1]), kind="classification")
    state = observer(1, evaluation_targets=evaluation_targets).unstarted(0)
    assert state.ensemble == EnsembleStats()


def test_state_comes_back() -> None:
    found, again = observer(2), observer(2)
    first_segment(found, [1.0, 0.5])
    again.set_state(found.get_state())
    assert again.tracker.incumbent == found.tracker.incumbent
    assert again.histories.states == found.histories.states
