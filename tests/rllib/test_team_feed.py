"""Multi-agent episodes hold what every agent saw, did and got, whenever its member reported."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from raytune_rl.records import Chunk, Decision, Transition
from raytune_rl.rllib import Agent
from raytune_rl.rllib.acting import acting_copy
from raytune_rl.rllib.spaces import Factored
from raytune_rl.rllib.team import Team
from raytune_rl.rllib.team_feed import episodes
from tests.rllib.test_team import ACTIONS, ALL, OBSERVATION, SIZES, situations

SEGMENTS = 4


def chunk(agent: Agent, member: int, first: int, *, length: int = SEGMENTS, terminated: bool = False) -> Chunk:
    """Made-up experience of one member, from segment ``first`` on."""
    acting = acting_copy(agent, OBSERVATION, ACTIONS, seed=1)
    rng = np.random.default_rng([member, first])
    transitions = []
    for segment in range(first, first + length):
        situation = situations(member + 1)[member]
        (choice,) = acting.act([situation])
        decision = Decision(
            member=member,
            segment=segment,
            hyperparameters={},
            positions=(),
            action=choice.action,
            observation=tuple(situation.observation.tolist()),
            extras=choice.extras,
        )
        after = tuple(rng.normal(size=len(SIZES.features)).tolist())
        transitions.append(Transition(decision=decision, reward=float(segment + member / 10), next_observation=after))
    last = transitions[-1]
    transitions[-1] = Transition(
        decision=last.decision, reward=last.reward, next_observation=last.next_observation, terminated=terminated
    )
    return Chunk(episode=f"{member}-0", member=member, start=first, transitions=tuple(transitions))


def made(settings: dict[str, Any], chunks: list[Chunk]) -> tuple[Team, list[Any]]:
    team = Team.of(Agent(**settings), SIZES)
    assert team is not None
    encodings = {name: Factored(sizes) for name, sizes in team.modules.items()}
    return team, episodes(chunks, team, encodings, itertools.count())


@pytest.mark.parametrize("settings", ALL, ids=repr)
def test_every_agent_has_its_own_part(settings: dict[str, Any]) -> None:
    agent = Agent(**settings)
    chunks = [chunk(agent, 0, 0, terminated=True), chunk(agent, 1, 2), chunk(agent, 2, 1, length=2)]
    team, (episode,) = made(settings, chunks)
    assert episode.env_steps() == 6, "from the first segment of all to the last one"
    assert episode.agent_steps() == sum(len(c.transitions) * len(team.seating(c.member)) for c in chunks)
    for one in chunks:
        for place, seat in enumerate(team.seating(one.member)):
            own = episode.agent_episodes[seat.agent(one.member)]
            assert episode.module_for(seat.agent(one.member)) == seat.module
            assert len(own) == len(one.transitions)
            assert (own.is_terminated, own.is_truncated) == (one.member == 0, one.member != 0)
            assert own.get_rewards() == pytest.approx([t.reward for t in one.transitions])
            seen = np.array([t.decision.observation for t in one.transitions])[:, seat.features]
            np.testing.assert_allclose(np.array(own.get_observations())[:-1], seen.clip(-4, 4), rtol=1e-6)
            after = np.array(one.transitions[-1].next_observation)[seat.features]
            np.testing.assert_allclose(own.get_observations(-1), after.clip(-4, 4), rtol=1e-6)
            done = [[t.decision.action[head] for head in seat.heads] for t in one.transitions]
            assert np.array(own.get_actions()).tolist() == done
            likely = [t.decision.extras["action_logp"][place] for t in one.transitions]
            assert own.get_extra_model_outputs("action_logp") == pytest.approx(likely)
            shown = np.array(own.get_extra_model_outputs("action_dist_inputs"))
            told = np.array([t.decision.extras["action_dist_inputs"] for t in one.transitions])
            np.testing.assert_allclose(shown, told[:, seat.logits], rtol=1e-6)


def test_a_member_that_begins_anew_does_so_in_the_next_episode() -> None:
    settings: dict[str, Any] = {"agents": "members"}
    agent = Agent(**settings)
    _, found = made(settings, [chunk(agent, 0, 0, length=1), chunk(agent, 1, 0), chunk(agent, 0, 1, length=2)])
    assert [sorted(episode.agent_episodes) for episode in found] == [["member-0", "member-1"], ["member-0"]]
    assert len({episode.id_ for episode in found}) == 2
