"""A policy network that can read any search space, and the policy that acts with it.

Each hyperparameter is a token: its block of the observation, which the same weights process together with the block
about the member. So a network that was trained with four hyperparameters also steers one or twenty, in any order (Deep
Sets, Zaheer et al. 2017). The functions work with numpy (for acting, where torch may not be installed) and with torch
(for learning).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

import numpy as np

from raytune_rl.controller.arrays import MEMBER_INDEX, SLOT_INDEX, Array, one_hot
from raytune_rl.controller.policies import Rule
from raytune_rl.controller.policy import Choice, Policy, PolicyRequirements, Situation
from raytune_rl.controller.prior import level_places, move_prior, source_prior, start_prior
from raytune_rl.hyperparameters import LEVELS, STAY
from raytune_rl.hyperparameters.roles import SEEN_ROLES, Role
from raytune_rl.mdp.action import SOURCES, ActionSpec
from raytune_rl.mdp.features import MEMBER_FEATURES, SLOT_FEATURES
from raytune_rl.mdp.observation import ObservationSpec

WIDTH: Final = 64
LEVEL_WIDTH: Final = 32
MEMBER: Final = len(MEMBER_FEATURES)
TOKEN: Final = len(SLOT_FEATURES)
LEVEL_INPUTS: Final = 4
ISLAND_SIZE: Final = 16
"""How many members are steered together, at most about that: meta-training has populations of 4 to 16."""
IMPOSSIBLE: Final = -1e4
"""The logit of an impossible option. Finite, so that no difference of two is NaN."""

PERMUTED_FROM: Final = 6
"""The first dimension of starting points whose digits are permuted, see ``halton``."""
JUDGED: Final[frozenset[Role]] = frozenset(
    {"learning_rate", "weight_decay", "momentum", "dropout", "label_smoothing", "none"}
)
"""Roles that occur in meta-training; the network knows nothing about others. A role that the observation shows as one
of these (``SEEN_AS``) is treated as that one."""
_UNJUDGED = [SLOT_INDEX[f"role/{role}"] for role in SEEN_ROLES if role not in JUDGED]


def shapes() -> dict[str, tuple[int, ...]]:
    """The shapes of the network's parameters, by name: an actor and a critic of the same structure."""
    shared: dict[str, tuple[int, ...]] = {}
    for part in ("actor", "critic"):
        shared |= {
            f"{part}.member.weight": (WIDTH, MEMBER),
            f"{part}.member.bias": (WIDTH,),
            f"{part}.token.weight": (WIDTH, TOKEN + WIDTH),
            f"{part}.token.bias": (WIDTH,),
            f"{part}.context.weight": (WIDTH, 2 * WIDTH),
            f"{part}.context.bias": (WIDTH,),
        }
    return shared | {
        "actor.joint.weight": (WIDTH, 2 * WIDTH),
        "actor.joint.bias": (WIDTH,),
        "actor.moves.weight": (LEVELS, WIDTH),
        "actor.moves.bias": (LEVELS,),
        "actor.level.weight": (LEVEL_WIDTH, WIDTH + LEVEL_INPUTS),
        "actor.level.bias": (LEVEL_WIDTH,),
        "actor.start.weight": (1, LEVEL_WIDTH),
        "actor.source.weight": (len(SOURCES), WIDTH),
        "actor.source.bias": (len(SOURCES),),
        "critic.value.weight": (1, WIDTH),
        "critic.value.bias": (1,),
    }


def initial_weights(seed: int) -> dict[str, np.ndarray]:
    """Uniform within 1 / sqrt(inputs); a tenth of that at the outputs, so that the prior decides at first."""
    rng = np.random.default_rng([seed, 0x70CE])
    weights = {}
    for name, shape in shapes().items():
        bound = 0.0 if name.endswith("bias") else 1.0 / math.sqrt(shape[-1])
        if name.split(".")[1] in ("moves", "start", "source", "value"):
            bound *= 0.1
        weights[name] = rng.uniform(-bound, bound, shape).astype(np.float32)
    return weights


def policy_logits(weights: Mapping[str, Array], observations: Array, xp: Any) -> Array:
    """Logits (N, H * LEVELS + sources) for observations (N, F) of H slots; ``xp`` is numpy or torch.

    The first decision reads the hyperparameters' heads as levels, later ones as moves. Options without effect now (of
    an empty slot, of a start-only hyperparameter, a copy where none is allowed) are impossible. Hyperparameters that
    the network knows nothing about (unordered choices, roles that are not ``JUDGED``) start anywhere and never move.
    """
    member, tokens = _split(observations)
    each, context = _encode(weights, "actor", member, tokens, xp)
    joint = xp.tanh(
        _dense(weights, "actor.joint", each, first=0) + _dense(weights, "actor.joint", context, first=WIDTH)[:, None]
    )
    moves = _dense(weights, "actor.moves", joint) + weights["actor.moves.bias"]
    moves = moves + move_prior(member, tokens, moves, xp)
    first = member[:, MEMBER_INDEX["first"]] > 0.5
    known = (tokens[..., SLOT_INDEX["present"]] > 0.5) & (tokens[..., SLOT_INDEX["ordered"]] > 0.5)
    known = known & (tokens[..., _UNJUDGED].sum(-1) < 0.5)
    live = tokens[..., SLOT_INDEX["live"]] > 0.5
    beginning = first[:, None] & (tokens[..., SLOT_INDEX["present"]] > 0.5)
    free = known & (first[:, None] | live)
    heads = moves
    if xp is not np or first.any():  # levels are the most expensive part, and few decisions are first ones
        heads = 1.0 * moves
        begun = tokens[first]
        heads[first] = _levels(weights, begun, joint[first], xp) + start_prior(member[first], begun, xp)
    stay = one_hot(STAY, LEVELS, heads, xp)
    nothing = xp.where(beginning[..., None], 0.0 * heads, (1.0 - stay) * IMPOSSIBLE + 0.0 * heads)
    heads = xp.where(free[..., None], heads, nothing)
    sources = _dense(weights, "actor.source", context) + weights["actor.source.bias"]
    sources = sources + source_prior(member, sources, xp)
    copying = (member[:, MEMBER_INDEX["copy_allowed"]] > 0.5) & ~first
    keep = one_hot(SOURCES.index("keep"), len(SOURCES), heads, xp)
    sources = xp.where(copying[:, None], sources, (1.0 - keep) * IMPOSSIBLE + 0.0 * sources)
    return xp.concatenate([heads.reshape(len(heads), -1), sources], 1)


def values(weights: Mapping[str, Array], observations: Array, xp: Any) -> Array:
    """The critic's estimates of the return, shape (N,)."""
    member, tokens = _split(observations)
    _, context = _encode(weights, "critic", member, tokens, xp)
    return (_dense(weights, "critic.value", context) + weights["critic.value.bias"])[:, 0]


def _split(observations: Array) -> tuple[Array, Array]:
    return observations[:, :MEMBER], observations[:, MEMBER:].reshape(len(observations), -1, TOKEN)


def _encode(weights: Mapping[str, Array], part: str, member: Array, tokens: Array, xp: Any) -> tuple[Array, Array]:
    """The embedding of each hyperparameter (N, H, WIDTH), and of the member with all of them (N, WIDTH)."""
    present = tokens[..., SLOT_INDEX["present"], None]
    trunk = xp.tanh(_dense(weights, f"{part}.member", member) + weights[f"{part}.member.bias"])
    token = f"{part}.token"
    about = _dense(weights, token, trunk, first=TOKEN) + weights[f"{token}.bias"]
    each = xp.tanh(_dense(weights, token, tokens, first=0) + about[:, None])
    pooled = (each * present).sum(1) / (present.sum(1) + 1e-6)
    context = f"{part}.context"
    whole = _dense(weights, context, trunk, first=0) + _dense(weights, context, pooled, first=WIDTH)
    return each, xp.tanh(whole + weights[f"{context}.bias"])


def _levels(weights: Mapping[str, Array], tokens: Array, joint: Array, xp: Any) -> Array:
    """A logit for every starting level, computed from its place in the range: (N, H, LEVELS)."""
    magnitude, position = level_places(tokens, xp)
    inputs = xp.stack([position, magnitude, magnitude * magnitude / 4, (position == 0) * 1.0], -1)
    level = "actor.level"
    about = _dense(weights, level, joint, first=0) + weights[f"{level}.bias"]
    hidden = xp.tanh(_dense(weights, level, inputs, first=WIDTH) + about[:, :, None])
    return _dense(weights, "actor.start", hidden)[..., 0]


def _dense(weights: Mapping[str, Array], name: str, inputs: Array, first: int = 0) -> Array:
    """The product of ``inputs`` with their columns of a weight, which begin at ``first``; without the bias."""
    weight = weights[f"{name}.weight"]
    return inputs @ weight[:, first : first + inputs.shape[-1]].T


class TokenPolicy(Rule):
    """Samples actions from a token network. Learns nothing itself.

    Starting values are sampled so that a population covers the network's distribution: member k takes the k-th point of
    a randomly shifted Halton sequence. Each member's values have the network's distribution; those of different members
    are not independent, so that a population of any size is spread out.

    Args:
        weights: by the names of ``shapes``.
        recording: whether choices carry what a learner needs (``Choice.extras``).

    Attributes:
        version: of the weights, noted in the choices; set with new weights.

    Raises:
        ValueError: a weight is missing or has another shape.
    """

    requirements = PolicyRequirements(schedule="late_cosine", starts=True, copy_every=2, island_size=ISLAND_SIZE)

    def __init__(self, weights: Mapping[str, np.ndarray], *, recording: bool = False) -> None:
        wrong = [name for name, shape in shapes().items() if name not in weights or weights[name].shape != shape]
        if wrong:
            raise ValueError(f"The controller's weights are of another version: {wrong[0]} is missing or differs.")
        self.weights = {name: np.asarray(weights[name], dtype=np.float32) for name in shapes()}
        self.version = 0
        self._recording = recording
        self._shifts = np.zeros(0)

    def bind(self, observation: ObservationSpec, action: ActionSpec, *, seed: int) -> None:
        super().bind(observation, action, seed=seed)
        self._shifts = np.random.default_rng([seed, 0x4A17]).random(len(action.heads))

    def acts_like(self, other: Policy) -> bool:
        """Whether the other policy, bound to the same task, chooses the same except at first decisions."""
        if type(self) is not TokenPolicy or type(other) is not TokenPolicy or self._recording != other._recording:
            return False
        return self.version == other.version and all(self.weights[name] is other.weights[name] for name in self.weights)

    def act(self, situations: Sequence[Situation]) -> Sequence[Choice]:
        if not situations:
            return []
        observations = np.array([situation.observation for situation in situations], dtype=np.float32)
        logits = policy_logits(self.weights, observations, np)
        draws = np.array([self._uniform(situation) for situation in situations])
        action = np.zeros((len(situations), len(self._action.heads)), dtype=np.int64)
        hyperparameters = len(self._action.space)
        levels = logits[:, : hyperparameters * LEVELS].reshape(len(logits), hyperparameters, LEVELS)
        # Between the hyperparameters' logits and the source's there are those of empty slots. The head ``stop``, which
        # the network does not have, stays neutral.
        logp = np.zeros(len(situations))
        first = 0
        for heads in (levels, logits[:, None, -len(SOURCES) :]):
            last = first + heads.shape[1]
            probabilities = _softmax(heads)
            below = np.cumsum(probabilities, axis=-1) < draws[:, first:last, None]
            sampled = np.minimum(below.sum(axis=-1), heads.shape[-1] - 1)
            action[:, first:last] = sampled
            chosen = np.take_along_axis(probabilities, sampled[..., None], axis=-1)[..., 0]
            logp += np.log(np.maximum(chosen, 1e-12)).sum(axis=1)
            first = last
        return [
            Choice(
                action=tuple(row),
                logp=log_probability,
                version=self.version,
                extras={"action_dist_inputs": tuple(inputs), "action_logp": (log_probability,)}
                if self._recording
                else {},
            )
            for row, log_probability, inputs in zip(action.tolist(), logp.tolist(), logits.tolist(), strict=True)
        ]

    def choose(self, situation: Situation, rng: np.random.Generator) -> tuple[int, ...]:
        return self.act([situation])[0].action

    def _uniform(self, situation: Situation) -> np.ndarray:
        """A uniform number in [0, 1) per head."""
        if situation.first:
            return spread(situation.member, self._shifts)
        return np.random.Generator(np.random.PCG64(situation.seed)).random(len(self._shifts))


def spread(member: int, shifts: np.ndarray) -> np.ndarray:
    """The member's point of a Halton sequence shifted by ``shifts`` (dimensions,), modulo 1 in each dimension."""
    points = np.array([halton(member, dimension) for dimension in range(len(shifts))])
    return np.asarray(np.mod(points + shifts, 1.0))


def halton(index: int, dimension: int) -> float:
    """Point ``index`` of the Halton sequence (Halton 1960), from its second on, along one dimension, in [0, 1).

    In large bases the first points are close together: eight members would try only two of seven levels of the
    twentieth hyperparameter. There the digits are permuted (generalised Halton, Faure and Lemieux 2009, section 2).

    Not from ``scipy.stats.qmc.Halton``, because importing that takes more than a second.
    """
    base = _prime(dimension)
    digits = range(base) if dimension < PERMUTED_FROM else _permuted(base)
    weight, result, index = 1.0 / base, 0.0, index + 1
    while index:
        index, digit = divmod(index, base)
        result += digits[digit] * weight
        weight /= base
    return result


@cache
def _permuted(base: int) -> tuple[int, ...]:
    """The digits of ``base`` in a random order that starts with 0."""
    return (0, *(1 + np.random.default_rng(base).permutation(base - 1)).tolist())


@cache
def _prime(index: int) -> int:
    """Prime number ``index``, from 0: 2, 3, 5, ..."""
    primes = [2]
    candidate = 3
    while len(primes) <= index:
        if all(candidate % prime for prime in primes):
            primes.append(candidate)
        candidate += 2
    return primes[index]


def _softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))
