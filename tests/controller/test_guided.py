"""A policy whose actions come from outside, and the two halves of a controller's step."""

from __future__ import annotations

import numpy as np

from raytune_rl.controller import PBT, Cosine, Fixed
from raytune_rl.controller.guided import Guided
from raytune_rl.controller.policies import Replay
from raytune_rl.controller.policy import PolicyRequirements
from tests.controller.worlds import Paper, make_controller


def test_it_does_as_it_is_told_and_follows_the_other_policy_where_it_is_not() -> None:
    policy = Guided(Fixed())
    paper = Paper(make_controller(policy))
    neutral = paper.controller.actions.neutral
    told = (6, *neutral[1:])
    policy.tell({2: np.array(told)})
    actions = [decision.action for decision in paper.generation().decisions]
    assert actions == [neutral, neutral, told, neutral]
    policy.tell({})
    assert {decision.action for decision in paper.generation().decisions} == {neutral}


def test_the_other_policys_schedule_comes_first() -> None:
    assert Guided(Cosine(), schedule="constant").requirements.schedule == "cosine"
    assert Guided(Fixed(), schedule="cosine").requirements.schedule == "cosine"
    assert Guided(Fixed()).requirements.schedule is None


class Demanding(Fixed):
    requirements = PolicyRequirements(schedule="cosine", starts=True, copy_every=3, island_size=2)


def test_it_has_all_requirements_of_the_other_policy() -> None:
    assert Guided(Demanding(), schedule="constant").requirements == Demanding.requirements


def test_the_other_policy_steers_on_islands() -> None:
    class OnIslands(PBT):
        requirements = PolicyRequirements(island_size=4)

    steps = Paper(make_controller(Guided(OnIslands()), population=12), members=12).play()
    copies = {(d.member, d.source.member) for step in steps for d in step.decisions if d.source.kind != "keep"}
    assert copies and all(member // 4 == (donor or 0) // 4 for member, donor in copies)


def test_prescribed_values_are_for_members_without_a_given_action() -> None:
    values = [{"lr": lr, "dropout": 0.0, "init": "xavier"} for lr in (0.01, 0.02, 0.03)]
    policy = Guided(Replay(values))
    paper = Paper(make_controller(policy, agent_starts=True))
    assert {decision.hyperparameters["lr"] for decision in paper.decisions.values()} == {0.01}
    policy.tell({2: (6, *paper.controller.actions.neutral[1:])})
    rates = [decision.hyperparameters["lr"] for decision in paper.generation().decisions]
    assert [rates[0], rates[1], rates[3]] == [0.02] * 3 and rates[2] not in (0.01, 0.02)


def test_what_a_member_sees_first_can_be_known_before_it_begins() -> None:
    controller = make_controller(PBT(), agent_starts=True)
    shown = controller.opening(1)
    assert shown.first and shown.segment == 0
    assert controller.begin(1).observation == tuple(shown.observation.tolist())


def test_the_halves_of_a_step_are_the_step() -> None:
    whole, halves = Paper(make_controller(PBT())), Paper(make_controller(PBT()))
    for _ in range(3):
        step = whole.generation()
        taken = halves.controller.take([halves.report(member) for member in range(4)])
        assert taken.rewards == step.rewards and taken.endings == (None,) * 4
        decided = halves.controller.decide(taken)
        halves.decisions |= {d.member: d for d in decided.decisions}
        assert [d.hyperparameters for d in decided.decisions] == [d.hyperparameters for d in step.decisions]
