"""The controller on paper: budget, rewards, rewinding, failures, targets, and state that survives."""

from __future__ import annotations

import json
import math
import pickle
from dataclasses import replace

import pytest

from raytune_rl.controller import PBT, Controller, FailurePolicy, Fixed, Random
from raytune_rl.controller.failures import DIVERGENCE_FACTOR
from raytune_rl.controller.schedule import schedule_factor
from raytune_rl.errors import BadInput
from raytune_rl.mdp.action import ActionSpec
from raytune_rl.records import Chunk
from tests.controller.worlds import SPACE, Paper, make_controller


class Recording(Random):
    """Keeps what it is given to learn from."""

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []

    def learn(self, chunks, *, wait=False) -> None:  # type: ignore[no-untyped-def]
        self.chunks += chunks


def test_the_budget_ends_every_member() -> None:
    steps = Paper(make_controller(Random())).play()
    assert [len(s.decisions) for s in steps] == [4] * 6
    assert all(d.stop for d in steps[-1].decisions)
    assert not any(d.stop for s in steps[:-1] for d in s.decisions)


def test_rewards_telescope_to_the_final_score() -> None:
    paper = Paper(make_controller(PBT()))
    steps = paper.play()
    for member, state in paper.controller.members.items():
        paid = sum(s.rewards[i] for s in steps for i, r in enumerate(s.reports) if r.member == member)
        assert paid == pytest.approx(state.credit)


def test_episodes_hold_every_decision_of_the_policy() -> None:
    policy = Recording()
    controller = make_controller(policy)
    Paper(controller).play(lambda step: controller.learn())
    transitions = [t for chunk in policy.chunks for t in chunk.transitions]
    assert len(transitions) == 4 * 5  # six segments, five decisions between them
    assert sum(t.truncated for t in transitions) == 4
    assert not any(t.terminated for t in transitions)


def test_the_agent_may_choose_the_start() -> None:
    policy = Recording()
    controller = make_controller(policy, agent_starts=True)
    Paper(controller).play(lambda step: controller.learn())
    assert sum(len(chunk.transitions) for chunk in policy.chunks) == 4 * 6


@pytest.mark.parametrize("agent_starts", [True, False])
def test_all_begin_at_once_as_they_would_one_by_one(agent_starts: bool) -> None:
    one, all_at_once = (make_controller(Random(), agent_starts=agent_starts) for _ in range(2))
    early = all_at_once.begin(2)
    assert all_at_once.begin_all(range(4)) == [one.begin(member) for member in range(4)]
    assert all_at_once.begin(2) is early


def test_members_that_cannot_be_changed_go_on_as_they_are_and_teach_nothing() -> None:
    policy = Recording()
    controller = make_controller(policy, agent_starts=True, schedule="cosine")
    paper = Paper(controller)
    starts = {member: controller.begin(member).hyperparameters for member in range(4)}
    for segment in range(6):
        reports = [replace(paper.report(m), segment=segment, hyperparameters=starts[m]) for m in range(4)]
        step = controller.step(reports, steered=False)
        controller.learn()
        for member, decision in enumerate(step.decisions):
            assert decision.stop == (segment == 5)
            assert (decision.source.kind, decision.action) == ("keep", ())
            assert decision.stop or decision.hyperparameters == starts[member]
    transitions = [t for chunk in policy.chunks for t in chunk.transitions]
    assert [t.decision.segment for t in transitions] == [0] * 4  # the start is the agent's own
    assert all(t.truncated for t in transitions)


def test_values_never_leave_their_bounds() -> None:
    controller = make_controller(Random(), schedule="cosine", segments=30, actions=ActionSpec(SPACE))
    for step in Paper(controller).play():
        for decision in step.decisions:
            assert 1e-5 <= decision.hyperparameters["lr"] <= 1.0
            assert 0.0 <= decision.hyperparameters["dropout"] <= 0.6


def test_decisions_do_not_depend_on_the_order_of_reports() -> None:
    one, other = Paper(make_controller(Random())), Paper(make_controller(Random()))
    for _ in range(3):
        a = one.generation()
        reports = [other.report(m) for m in reversed(range(4))]
        b = other.controller.step(reports)
        other.decisions |= {d.member: d for d in b.decisions}
        assert {d.member: d.action for d in a.decisions} == {d.member: d.action for d in b.decisions}


def test_start_only_hyperparameters_stay_unless_weights_are_copied() -> None:
    paper = Paper(make_controller(Random(), actions=ActionSpec(SPACE, sources=("keep",))))
    start = {m: d.hyperparameters["init"] for m, d in paper.decisions.items()}
    for step in paper.play():
        assert all(d.hyperparameters["init"] == start[d.member] for d in step.decisions)


def test_begin_answers_the_same_again() -> None:
    controller = make_controller(Random())
    assert controller.begin(2) == controller.begin(2)
    given = controller.begin(9, {"lr": 0.0123, "dropout": 0.1, "init": "xavier"})
    assert given.hyperparameters["lr"] == 0.0123


def test_a_rewound_member_lives_its_segments_again_exactly() -> None:
    """A trial that restarts from an older checkpoint gives the same decisions as one that was never interrupted."""
    straight, crashed = Paper(make_controller(Random())), Paper(make_controller(Random()))
    expected = [straight.generation() for _ in range(4)]
    crashed.generation()
    losses, decisions = dict(crashed.losses), dict(crashed.decisions)
    best = dict(crashed.best)
    crashed.generation()
    crashed.generation()
    crashed.losses, crashed.decisions, crashed.best = losses, decisions, best
    for step in expected[1:]:
        again = crashed.generation()
        assert [d.action for d in again.decisions] == [d.action for d in step.decisions]
        assert again.rewards == pytest.approx(step.rewards)


def test_state_goes_on_in_a_new_controller() -> None:
    straight, before = Paper(make_controller(PBT())), Paper(make_controller(PBT()))
    for _ in range(3):
        straight.generation()
        before.generation()
    after = Paper(make_controller(PBT()))
    after.controller.set_state(pickle.loads(pickle.dumps(before.controller.get_state())))
    after.losses, after.decisions, after.best = before.losses, before.decisions, before.best
    a, b = straight.play(), after.play()
    assert [s.decisions for s in a] == [s.decisions for s in b]
    assert straight.controller.incumbent == after.controller.incumbent


@pytest.mark.parametrize("status", ["failed", "diverged", "hung"])
def test_failures_restart_from_the_own_best_until_they_are_too_many(status: str) -> None:
    controller = make_controller(Fixed(), failures=FailurePolicy(max_restarts=1))
    paper = Paper(controller)
    paper.generation()
    broken = {"status": status, "metrics": {"loss": math.nan} if status == "diverged" else {}}
    step = paper.generation({1: broken})
    restart = step.decisions[1]
    assert not restart.stop
    assert (restart.source.kind, restart.source.member) == ("checkpoint", 1)
    assert restart.action == ()
    assert step.rewards[1] < 0
    step = paper.generation({1: broken})
    assert step.decisions[1].stop
    assert not controller.members[1].alive
    assert [d.stop for d in step.decisions if d.member != 1] == [False] * 3
    assert len(paper.play()) == 3  # the others go on to the end


@pytest.mark.parametrize(("status", "share"), [("diverged", DIVERGENCE_FACTOR), ("failed", 1.0)])
def test_a_member_that_diverges_goes_on_more_calmly(status: str, share: float) -> None:
    paper = Paper(make_controller(Fixed()))
    paper.generation()
    (rate,) = (h.name for h in paper.controller.space if h.role == "learning_rate")
    rates = [max(one.hyperparameters[rate] for one in paper.decisions.values())]
    (member,) = (m for m, one in paper.decisions.items() if one.hyperparameters[rate] == rates[0])
    for _ in range(2):  # each time it diverges its rate is a quarter of what it was
        broken = {"status": status, "metrics": {"loss": math.nan} if status == "diverged" else {}}
        rates.append(paper.generation({member: broken}).decisions[member].hyperparameters[rate])
    assert rates[1:] == pytest.approx([rates[0] * share, rates[0] * share**2])


def test_nan_is_never_the_incumbent() -> None:
    paper = Paper(make_controller(Fixed()))
    paper.generation({m: {"metrics": {"loss": math.nan}, "status": "diverged"} for m in range(4)})
    assert paper.controller.incumbent is None


def test_target_stops_everybody() -> None:
    paper = Paper(make_controller(Fixed(), target=1.99))
    step = paper.generation()
    assert all(d.stop for d in step.decisions)
    assert "target" in (paper.controller.stopping or "")


def test_a_metric_that_nobody_reports_is_named() -> None:
    paper = Paper(make_controller(Fixed()))
    step = paper.generation({m: {"metrics": {"los": 1.0, "accuracy": 0.1}} for m in range(4)})
    assert all(d.stop for d in step.decisions)
    assert paper.controller.problem is not None
    assert "'loss'" in paper.controller.problem and "accuracy, los" in paper.controller.problem


def test_a_dropped_member_is_nobodys_source() -> None:
    paper = Paper(make_controller(PBT()))
    paper.generation()
    best = min(paper.losses, key=lambda m: paper.losses[m])
    paper.controller.drop([best])
    paper.decisions[best] = replace(paper.decisions[best], stop=True)
    for step in paper.play():
        assert all(d.source.kind != "member" or d.source.member != best for d in step.decisions)


def test_a_copy_under_way_keeps_the_old_values() -> None:
    """Reports name the decision in force; until a copy has landed, positions are those of the old one."""
    controller = make_controller(Random())
    paper = Paper(controller)
    paper.generation()
    first = paper.decisions[0]
    paper.generation()
    paper.generation({0: {"decision": first.segment}})
    assert controller.members[0].positions == first.positions


def test_a_controller_that_is_behind_takes_up_what_reports_say() -> None:
    """A state file was damaged, and the one before it knows fewer segments than the trials."""
    ahead, behind = Paper(make_controller(PBT(), schedule="cosine")), make_controller(PBT(), schedule="cosine")
    ahead.generation()
    saved = pickle.loads(pickle.dumps(ahead.controller.get_state()))
    ahead.generation()
    ahead.generation()
    behind.set_state(saved)
    ahead.controller = behind
    step = ahead.generation()
    assert [d.segment for d in step.opened] == [3] * 4
    for report, decision in zip(step.reports, step.opened, strict=True):
        assert decision.hyperparameters["lr"] == pytest.approx(report.hyperparameters["lr"])
    assert len(ahead.play()) == 2


def test_measured_times_stay_out_where_runs_must_repeat() -> None:
    slow, quick = Paper(make_controller(Random(), timed=False)), Paper(make_controller(Random(), timed=False))
    for _ in range(3):
        a = slow.generation({m: {"seconds": 1.0 + m, "signals": {"train_seconds": 1.0 + m}} for m in range(4)})
        b = quick.generation({m: {"seconds": 0.1} for m in range(4)})
        assert [d.observation for d in a.decisions] == [d.observation for d in b.decisions]
        assert a.rewards == b.rewards


def test_memory_stays_bounded() -> None:
    controller = make_controller(Random(), segments=None)
    paper = Paper(controller, members=1)
    for _ in range(700):
        paper.generation()
        controller.learn()
        paper.losses[0] = 2.0
    assert len(pickle.dumps(controller.get_state())) < 1_500_000


def test_durable_checkpoints_free_what_came_before() -> None:
    controller = make_controller(Random(), segments=None)
    paper = Paper(controller, members=1)
    for segment in range(60):
        paper.generation()
        if segment % 20 == 19:
            controller.durable(0, segment)
    states = controller.get_state()["histories"][0]["states"]
    assert min(states) == 40
    assert max(states) == 60


def test_schedule_factor_is_one_without_a_horizon() -> None:
    assert schedule_factor("cosine", 5, None) == 1.0
    assert schedule_factor("constant", 5, 10) == 1.0
    factors = [schedule_factor("cosine", s, 20) for s in range(25)]
    assert factors == sorted(factors, reverse=True)
    assert min(factors) > 0


def test_failure_policy_is_checked() -> None:
    with pytest.raises(ValueError, match="max_restarts"):
        FailurePolicy(max_restarts=-1)
    with pytest.raises(BadInput, match=r"max_restarts is 1\.5"):
        FailurePolicy(max_restarts=1.5)  # type: ignore[arg-type]


def test_states_are_plain_enough_for_json() -> None:
    controller: Controller = make_controller(Fixed())
    Paper(controller).play()
    states = controller.get_state()["histories"][0]["states"]
    assert json.loads(json.dumps(states))
