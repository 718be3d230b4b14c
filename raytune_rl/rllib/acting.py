"""The acting half of an agent: a forward pass of its network, then sampling.

Exploration is always on: sampling at a lower temperature gave worse results in preliminary experiments. Every situation
is sampled with a generator of its own seed, so a choice depends neither on global random state nor on the other
situations in the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from raytune_rl.controller.policy import Choice, Situation
from raytune_rl.mdp.action import ActionSpec
from raytune_rl.mdp.observation import ObservationSpec
from raytune_rl.rllib.network import LOG_STD_BOUND, Floats, Weights, initial_weights, networks
from raytune_rl.rllib.settings import Agent
from raytune_rl.rllib.spaces import (
    ACTION_DIST_INPUTS,
    ACTION_LOGP,
    ACTIONS,
    OBSERVATION_BOUND,
    Binned,
    Encoding,
    Factored,
    Sequential,
    Sizes,
    clean,
)
from raytune_rl.rllib.team import Seat, Team, joined, module_seed, separated
from raytune_rl.rllib.tokens import TokenActing, TokenAgent
from raytune_rl.rllib.traits import TRAITS, epsilon_at


class Acting(Protocol):
    """The acting half of an agent, as the policy uses it."""

    def act(self, situations: Sequence[Situation], *, decisions: int = 0, version: int = 0) -> list[Choice]:
        """One choice per situation.

        Args:
            situations: at least one.
            decisions: number of decisions so far, for DQN's epsilon.
            version: of the weights, noted in the choices.
        """
        ...

    def weights(self) -> Weights:
        """A copy of the network's parameters, by their names in the RLModule's state."""
        ...

    def set_weights(self, weights: Mapping[str, NDArray[Any]]) -> None:
        """Act with these weights from now on."""
        ...


def acting_copy(agent: Agent, observation: ObservationSpec, action: ActionSpec, *, seed: int) -> Acting:
    """The acting half of ``agent``, with its starting weights."""
    if isinstance(agent, TokenAgent):
        return TokenActing(agent, observation, action, seed=seed)
    sizes = Sizes.of(observation, action)
    team = Team.of(agent, sizes)
    if team is not None:
        return TeamActing(agent, team, action, seed=seed)
    return ActingCopy(agent, sizes, action, seed=seed)


class ActingCopy:
    """The acting half of an agent with dense layers. Choices are sampled as the algorithm does it."""

    def __init__(self, agent: Agent, sizes: Sizes, action: ActionSpec, *, seed: int) -> None:
        self._agent = agent
        self._action = action
        self._networks = networks(agent, sizes)
        self._weights = initial_weights(agent, sizes, seed=seed)
        self._encoding: Encoding = TRAITS[agent.algorithm].encoding(sizes)
        samplers: dict[type[Encoding], Callable[[Floats, Sequence[np.random.Generator], int, int], list[Choice]]] = {
            Factored: self._categorical,
            Binned: self._squashed,
            Sequential: self._greedy,
        }
        self._choose = samplers[type(self._encoding)]

    def act(self, situations: Sequence[Situation], *, decisions: int = 0, version: int = 0) -> list[Choice]:
        """One choice per situation."""
        observations = clean(np.stack([s.observation for s in situations]).astype(np.float32), OBSERVATION_BOUND)
        generators = [np.random.Generator(np.random.PCG64(s.seed)) for s in situations]
        return self._choose(observations, generators, decisions, version)

    def weights(self) -> Weights:
        """A copy of the network's parameters."""
        return {name: value.copy() for name, value in self._weights.items()}

    def set_weights(self, weights: Mapping[str, NDArray[Any]]) -> None:
        """Act with these weights from now on; those of parts that only the learner has are ignored."""
        self._weights = {name: np.asarray(weights[name], dtype=np.float32) for name in self._weights}

    def _forward(self, network: str, inputs: Floats) -> Floats:
        return self._networks[network].forward(self._weights, inputs)

    def _categorical(
        self, observations: Floats, rngs: Sequence[np.random.Generator], _: int, version: int
    ) -> list[Choice]:
        logits = self._forward("policy", observations)
        values = self._forward("value", observations)[:, 0].tolist()
        # The Gumbel-max trick: the argmax of logits + Gumbel noise is a sample of the softmax.
        noisy = logits + np.stack([rng.gumbel(size=logits.shape[1]) for rng in rngs])
        rows = np.arange(len(logits))
        nvec = self._encoding.sizes.nvec
        action = np.empty((len(logits), len(nvec)), dtype=np.int64)
        logp = np.zeros(len(logits))
        start = 0
        for head, size in enumerate(nvec):
            part = slice(start, start + size)
            action[:, head] = noisy[:, part].argmax(axis=1)
            scores = logits[:, part].astype(np.float64)
            top = scores.max(axis=1)
            logp += scores[rows, action[:, head]] - top - np.log(np.exp(scores - top[:, None]).sum(axis=1))
            start += size
        return [
            Choice(
                action=tuple(indices),
                logp=log_probability,
                value=value,
                version=version,
                extras={ACTION_DIST_INPUTS: tuple(inputs), ACTION_LOGP: (log_probability,)},
            )
            for indices, log_probability, value, inputs in zip(
                action.tolist(), logp.tolist(), values, logits.tolist(), strict=True
            )
        ]

    def _squashed(
        self, observations: Floats, rngs: Sequence[np.random.Generator], _: int, version: int
    ) -> list[Choice]:
        mean, log_std = np.split(self._forward("policy", observations), 2, axis=1)
        log_std = np.clip(log_std, -LOG_STD_BOUND, LOG_STD_BOUND)
        noise = np.stack([rng.standard_normal(mean.shape[1], dtype=np.float32) for rng in rngs])
        raw = mean + np.exp(log_std) * noise
        points = np.tanh(raw)
        density = -0.5 * noise**2 - log_std - 0.5 * np.log(2 * np.pi)
        jacobian = 2 * (np.log(2) - raw - np.logaddexp(0, -2 * raw))
        logp = (density - jacobian).sum(axis=1)
        return [
            Choice(
                action=self._action.from_box(points[row]),
                logp=float(logp[row]),
                version=version,
                extras={ACTIONS: tuple(points[row].tolist())},
            )
            for row in range(len(points))
        ]

    def _greedy(
        self, observations: Floats, rngs: Sequence[np.random.Generator], decisions: int, version: int
    ) -> list[Choice]:
        encoding = self._encoding
        assert isinstance(encoding, Sequential)
        sequence = encoding.start(observations)
        action = np.empty((len(observations), encoding.substeps), dtype=np.int64)
        value = np.zeros(len(observations))
        draws = np.stack([rng.random((2, encoding.substeps)) for rng in rngs])
        explore = draws[:, 0] < epsilon_at(self._agent, decisions)
        options = (draws[:, 1] * encoding.sizes.nvec).astype(np.int64)
        for head, size in enumerate(encoding.sizes.nvec):
            q_values = self._forward("q", sequence)[:, :size]  # options that this head does not have are cut off
            if head == 0:
                value = q_values.max(axis=1)
            action[:, head] = np.where(explore[:, head], options[:, head], q_values.argmax(axis=1))
            encoding.advance(sequence, head, action[:, head])
        return [
            Choice(action=tuple(indices), value=float(best), version=version)
            for indices, best in zip(action.tolist(), value, strict=True)
        ]


class TeamActing:
    """The acting half of several agents: each network decides for all agents that share it in one batch."""

    def __init__(self, agent: Agent, team: Team, action: ActionSpec, *, seed: int) -> None:
        self._team = team
        self._copies = {
            name: ActingCopy(agent, sizes, action, seed=module_seed(seed, index))
            for index, (name, sizes) in enumerate(team.modules.items())
        }

    def act(self, situations: Sequence[Situation], *, decisions: int = 0, version: int = 0) -> list[Choice]:
        """One choice per situation, joined from those of its member's agents. ``ACTION_LOGP`` has one entry for each of
        them, in the order of the seats."""
        asked: dict[str, list[tuple[int, int, Situation]]] = {}
        for index, situation in enumerate(situations):
            for place, seat in enumerate(self._team.seating(situation.member)):
                asked.setdefault(seat.module, []).append((index, place, _seated(situation, seat, place)))
        parts: dict[tuple[int, int], Choice] = {}
        for module, questions in asked.items():
            answers = self._copies[module].act([q for _, _, q in questions], decisions=decisions, version=version)
            parts |= {(index, place): choice for (index, place, _), choice in zip(questions, answers, strict=True)}
        return [
            _joined_choice([parts[index, place] for place in range(len(self._team.seating(situation.member)))])
            for index, situation in enumerate(situations)
        ]

    def weights(self) -> Weights:
        """A copy of all networks' parameters."""
        return joined({name: acting.weights() for name, acting in self._copies.items()})

    def set_weights(self, weights: Mapping[str, NDArray[Any]]) -> None:
        """Act with these weights from now on."""
        for name, own in separated(weights).items():
            self._copies[name].set_weights(own)


def _seated(situation: Situation, seat: Seat, place: int) -> Situation:
    """The situation as the agent in ``seat`` sees it, with a seed of its own."""
    seed = situation.seed if place == 0 else int(np.random.SeedSequence([situation.seed, place]).generate_state(1)[0])
    return replace(situation, observation=situation.observation[seat.features], seed=seed)


def _joined_choice(parts: Sequence[Choice]) -> Choice:
    """The choice for a member, joined from those of its agents in the order of the heads."""
    return Choice(
        action=tuple(index for part in parts for index in part.action),
        logp=sum(part.logp for part in parts),
        value=float(np.mean([part.value for part in parts])),
        version=parts[0].version,
        extras={
            name: tuple(value for part in parts for value in part.extras[name])
            for name in (ACTION_DIST_INPUTS, ACTION_LOGP)
        },
    )
