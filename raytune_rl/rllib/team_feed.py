"""The experience of several agents for RLlib: multi-agent episodes, and the runner that hands them over."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from ray.rllib.env import INPUT_ENV_SPACES
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode

from raytune_rl.records import Chunk, Transition
from raytune_rl.rllib.feed import FeedRunner
from raytune_rl.rllib.spaces import ACTION_DIST_INPUTS, ACTION_LOGP, Encoding
from raytune_rl.rllib.team import Seat, Team


class TeamFeedRunner(FeedRunner):
    """Hands over multi-agent episodes. It counts agent steps, of which a decision has one per agent of the member."""

    def _module(self) -> Any:
        return self.config.get_multi_rl_module_spec(spaces=self.get_spaces(), inference_only=True).build()

    def get_spaces(self) -> dict[str, Any]:
        specs = self.config.rl_module_spec.rl_module_specs
        spaces = {name: (spec.observation_space, spec.action_space) for name, spec in specs.items()}
        return {INPUT_ENV_SPACES: (self.config.observation_space, self.config.action_space), **spaces}


def episodes(
    chunks: Sequence[Chunk], team: Team, encodings: Mapping[str, Encoding], numbers: itertools.count[int]
) -> list[MultiAgentEpisode]:
    """The chunks of all members as episodes of the population, whose steps are segments.

    Members report asynchronously and restart after failures, so the n-th chunk of each member goes into the n-th
    episode. Its agents enter the episode at the chunk's first segment and leave after its last. As in
    ``feed.episodes``, an open end counts as truncated.
    """
    rounds: list[list[Chunk]] = []
    seen: dict[int, int] = {}
    for chunk in chunks:
        place = seen[chunk.member] = seen.get(chunk.member, -1) + 1
        if place == len(rounds):
            rounds.append([])
        rounds[place].append(chunk)
    return [_episode(together, team, encodings, next(numbers)) for together in rounds]


def _episode(chunks: Sequence[Chunk], team: Team, encodings: Mapping[str, Encoding], number: int) -> MultiAgentEpisode:
    begin = min(_first(chunk) for chunk in chunks)
    length = max(_first(chunk) + len(chunk.transitions) for chunk in chunks) - begin
    observations: list[dict[str, Any]] = [{} for _ in range(length + 1)]
    actions: list[dict[str, Any]] = [{} for _ in range(length)]
    rewards: list[dict[str, float]] = [{} for _ in range(length)]
    outputs: list[dict[str, Any]] = [{} for _ in range(length)]
    modules: dict[str, str] = {}
    terminated: dict[str, bool] = {}
    truncated: dict[str, bool] = {}
    for chunk in chunks:
        at = _first(chunk) - begin
        for seat in team.seating(chunk.member):
            agent = seat.agent(chunk.member)
            rows = encodings[seat.module].rows([_seen(t, seat, team) for t in chunk.transitions])
            modules[agent] = seat.module
            terminated[agent] = chunk.transitions[-1].terminated
            truncated[agent] = not terminated[agent]
            for step, observation in enumerate(rows.observations):
                observations[at + step][agent] = observation
            for step in range(len(rows.actions)):
                actions[at + step][agent] = rows.actions[step]
                rewards[at + step][agent] = float(rows.rewards[step])
                outputs[at + step][agent] = {name: np.asarray(values[step]) for name, values in rows.outputs.items()}
    return MultiAgentEpisode(
        id_=f"population#{number}",
        observations=observations,
        infos=[{agent: {} for agent in step} for step in observations],
        actions=actions,
        rewards=rewards,
        terminateds={**terminated, "__all__": all(terminated.values())},
        truncateds={**truncated, "__all__": not all(terminated.values())},
        extra_model_outputs=outputs,
        len_lookback_buffer=0,
        agent_module_ids=modules,
    )


def _first(chunk: Chunk) -> int:
    return chunk.transitions[0].decision.segment


def _seen(transition: Transition, seat: Seat, team: Team) -> Transition:
    """A transition as the agent in ``seat`` saw it."""
    decision = transition.decision
    place = [other.heads for other in team.seating(decision.member)].index(seat.heads)
    extras = {
        ACTION_DIST_INPUTS: decision.extras[ACTION_DIST_INPUTS][seat.logits],
        ACTION_LOGP: (decision.extras[ACTION_LOGP][place],),
    }
    return replace(
        transition,
        decision=replace(
            decision,
            observation=tuple(decision.observation[i] for i in seat.features),
            action=tuple(decision.action[head] for head in seat.heads),
            extras=extras,
        ),
        next_observation=tuple(transition.next_observation[i] for i in seat.features),
    )
