"""Who decides what: seats cover every head once, networks are shared as the settings say, and choices fit together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ray import tune

from raytune_rl.controller.policy import Situation
from raytune_rl.hyperparameters import SearchSpace, roles
from raytune_rl.mdp.action import ActionSpec
from raytune_rl.mdp.observation import ObservationSpec
from raytune_rl.rllib import Agent
from raytune_rl.rllib.acting import ActingCopy, TeamActing, acting_copy
from raytune_rl.rllib.spaces import ACTION_DIST_INPUTS, ACTION_LOGP, Sizes
from raytune_rl.rllib.team import Team, joined, separated, starting_weights

SPACE = SearchSpace.from_specs(
    {
        "lr": roles.learning_rate(tune.loguniform(1e-5, 1.0)),
        "optimizer/wd": roles.weight_decay(tune.loguniform(1e-6, 0.1)),
        "width": tune.uniform(0.0, 1.0),
        "depth": tune.uniform(0.0, 1.0),
    }
)
OBSERVATION, ACTIONS = ObservationSpec(SPACE), ActionSpec(SPACE, stopping=True)
SIZES = Sizes.of(OBSERVATION, ACTIONS)

ALL: list[dict[str, Any]] = [
    {"agents": "members"},
    {"agents": "members", "modules": "role"},
    {"agents": "members", "modules": "own", "population": 3},
    {"agents": "hyperparameters"},
    {"agents": "hyperparameters", "modules": "role"},
    {"agents": "hyperparameters", "modules": "own"},
]
"""Every way of dividing the work."""


def team(**settings: Any) -> Team:
    found = Team.of(Agent(**settings), SIZES)
    assert found is not None
    return found


def situations(count: int = 4) -> list[Situation]:
    rng = np.random.default_rng(3)
    return [
        Situation(member=m, segment=2, first=False, observation=_floats(rng, SIZES), seed=100 + m) for m in range(count)
    ]


def _floats(rng: np.random.Generator, sizes: Sizes) -> np.ndarray:
    return rng.normal(size=len(sizes.features)).astype(np.float32)


def test_one_agent_is_no_team() -> None:
    assert Team.of(Agent(), SIZES) is None


@pytest.mark.parametrize("settings", ALL, ids=repr)
def test_seats_cover_every_head_once_and_see_what_their_network_takes(settings: dict[str, Any]) -> None:
    found = team(**settings)
    for member in range(5):
        seats = found.seating(member)
        assert [head for seat in seats for head in seat.heads] == list(range(len(SIZES.nvec)))
        assert seats[0].logits.start == 0 and seats[-1].logits.stop == sum(SIZES.nvec)
        for seat in seats:
            sizes = found.modules[seat.module]
            assert len(seat.features) == len(sizes.features)
            assert tuple(SIZES.nvec[head] for head in seat.heads) == sizes.nvec
        assert len({seat.agent(member) for seat in seats}) == len(seats)
    assert not any(set(name) & set('/\\<>:"|?* ') for name in found.modules), "RLlib makes files of these names"


def test_members_share_a_network_as_told() -> None:
    def modules(**settings: Any) -> list[str]:
        return [team(agents="members", **settings).seating(member)[0].module for member in range(4)]

    assert len(set(modules())) == 1
    assert modules(modules="role") == ["exploiter", "explorer"] * 2
    assert modules(modules="own", population=3) == ["member-0", "member-1", "member-2", "member-0"]
    with pytest.raises(ValueError, match=r"Agent\.population must be the number of members"):
        team(agents="members", modules="own")


def test_hyperparameters_share_a_network_as_told() -> None:
    def modules(**settings: Any) -> list[str]:
        return [seat.module for seat in team(agents="hyperparameters", **settings).seating(0)]

    assert modules() == ["hyperparameter"] * 4 + ["source", "stop"]
    assert modules(modules="role") == [
        "role-learning_rate",
        "role-weight_decay",
        "role-none",
        "role-none",
        "source",
        "stop",
    ]
    assert modules(modules="own")[:2] == ["hp0-lr", "hp1-optimizer-wd"] and len(set(modules(modules="own"))) == 6


def test_a_hyperparameter_sees_the_member_and_itself() -> None:
    seats = team(agents="hyperparameters").seating(0)
    seen = [SIZES.features[i] for i in seats[1].features]
    assert "progress" in seen and "hp/optimizer/wd/position" in seen and "hp/lr/position" not in seen
    assert len(seats[4].features) == len(SIZES.features), "the source sees everything"
    # What a shared network is told has no names in it, so that it means the same for each.
    told = team(agents="hyperparameters").modules["hyperparameter"].features
    assert told[-1].startswith("role/") and not any("wd" in name for name in told)


@pytest.mark.parametrize("settings", ALL, ids=repr)
def test_choices_fit_the_action_space_and_repeat_for_each_alone(settings: dict[str, Any]) -> None:
    acting = acting_copy(Agent(**settings), OBSERVATION, ACTIONS, seed=1)
    assert isinstance(acting, TeamActing)
    together = acting.act(situations(), version=7)
    assert [c.action for c in together] == [acting.act([one])[0].action for one in situations()]
    for member, choice in enumerate(together):
        assert all(0 <= index < size for index, size in zip(choice.action, SIZES.nvec, strict=True))
        assert choice.version == 7 and choice.logp == pytest.approx(sum(choice.extras[ACTION_LOGP]))
        assert len(choice.extras[ACTION_LOGP]) == len(team(**settings).seating(member))
        logits = np.array(choice.extras[ACTION_DIST_INPUTS])
        assert choice.logp == pytest.approx(_logp(logits, choice.action))


def _logp(logits: np.ndarray, action: tuple[int, ...]) -> float:
    total, start = 0.0, 0
    for size, index in zip(SIZES.nvec, action, strict=True):
        part = logits[start : start + size]
        total += float(part[index] - np.log(np.exp(part).sum()))
        start += size
    return total


def test_members_with_a_shared_network_act_as_one_agent_does() -> None:
    one = ActingCopy(Agent(), SIZES, ACTIONS, seed=1)
    shared = acting_copy(Agent(agents="members"), OBSERVATION, ACTIONS, seed=1)
    assert [c.action for c in shared.act(situations())] == [c.action for c in one.act(situations())]


@pytest.mark.parametrize("settings", ALL, ids=repr)
def test_weights_come_and_go(settings: dict[str, Any]) -> None:
    agent = Agent(**settings)
    acting = acting_copy(agent, OBSERVATION, ACTIONS, seed=1)
    start = starting_weights(agent, SIZES, seed=1)
    assert {name: value.tolist() for name, value in acting.weights().items()} == {
        n: v.tolist() for n, v in start.items()
    }
    assert joined(separated(start)).keys() == start.keys()
    before = acting.act(situations())
    acting.set_weights({name: value + 0.5 for name, value in start.items()})
    assert [c.value for c in acting.act(situations())] != [c.value for c in before]
    networks = separated(start)
    if len(networks) > 1:
        one, two = list(networks.values())[:2]
        assert any(not np.array_equal(one[name], two[name]) for name in one), "networks begin differently"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"agents": "everybody"}, "Agent.agents is 'everybody'"),
        ({"agents": "members", "modules": "some"}, "Agent.modules is 'some'"),
        ({"modules": "own"}, "a single agent"),
        ({"agents": "members", "algorithm": "DQN"}, "PPO or APPO, not with DQN"),
        ({"agents": "hyperparameters", "algorithm": "SAC"}, "PPO or APPO, not with SAC"),
    ],
)
def test_what_does_not_go_together_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        Agent(**settings)
    assert "\n" not in str(error.value)
