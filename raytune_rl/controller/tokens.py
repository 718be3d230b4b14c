"""A policy network that can read any search space, and the policy that acts with it.

Each hyperparameter is a token: its block of the observation, seen by one and the same set of weights, beside the block
about the member. So a network that was trained with four hyperparameters also steers one or twenty, in any order (the
idea of Deep Sets, Zaheer et al. 2017). The mathematics is written once, for numpy (acting, where torch need not be
installed) and for torch (learning).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

import numpy as np

from raytune_rl.controller.policies import Rule
from raytune_rl.controller.policy import Choice, Policy, Situation
from raytune_rl.controller.schedule import Schedule
from raytune_rl.hyperparameters import LEVELS, STAY
from raytune_rl.hyperparameters.roles import REGULARISATION, SEEN_ROLES, Role, seen_as
from raytune_rl.mdp.action import SOURCES, ActionSpec
from raytune_rl.mdp.features import MEMBER_FEATURES, SLOT_FEATURES
from raytune_rl.mdp.observation import ObservationSpec

Array = Any
"""A numpy array or a torch tensor."""

WIDTH: Final = 64
LEVEL_WIDTH: Final = 32
MEMBER: Final = len(MEMBER_FEATURES)
TOKEN: Final = len(SLOT_FEATURES)
LEVEL_INPUTS: Final = 4
ISLAND: Final = 16
"""So many members are steered together: meta-training has populations of 4 to 16."""
IMPOSSIBLE: Final = -1e4
"""The logit of an option that is not there. Finite, so that no difference of two is NaN."""

# What a fresh network does, and learning adds to: starting values about a hand default, then something like PBT.
RATE_CENTRE, RATE_SIGN, RATE_WIDTH = -1.56 + 2.0, -0.74, 0.5
"""log10 + 2 of the learning rate that starting values gather about (0.15 for SGD, 0.005 for Adam), and its spread."""
OFF_SLOPE, MOMENTUM_SLOPE = 3.0, 7.0
"""How much less likely full regularisation is than none, where it is mostly off, and the lowest momentum than the
highest, in nats."""
PERMUTED_FROM: Final = 6
"""The first dimension of starting points whose digits are permuted, see ``halton``."""
STEP_PRIOR: Final = (-2.5, -1.2, 0.0, 0.0, 0.0, -1.2, -2.5)
"""Logits of the moves: small steps before large ones. Staying has one of the next two on top of it."""
STAY_PRIOR, RESTLESS_PRIOR = 4.0, 0.3
"""For who goes on, and for who has been left behind and may copy: it explores about what it copies, as in PBT."""
REPLACED: Final = 0.8
"""Members that more than this share of the others are better than have been left behind."""
SOURCE_PRIOR: Final = {"keep": 4.0, "best": 0.0, "second": 0.0, "incumbent": -1.0, "own_best": -1.0}
LEFT_BEHIND: Final = {"keep": 0.0, "best": 1.3, "second": 0.7, "incumbent": -1.0, "own_best": -1.5}
"""Logits of the sources, likewise. An ensemble's members always go on: copies make them alike."""

_MEMBER = {row.name: index for index, row in enumerate(MEMBER_FEATURES)}
_SLOT = {row.name: index for index, row in enumerate(SLOT_FEATURES)}
JUDGED: Final[frozenset[Role]] = frozenset(
    {"learning_rate", "weight_decay", "momentum", "dropout", "label_smoothing", "none"}
)
"""Roles that occur in meta-training. Of the others the network knows nothing, and what is seen as one of these (see
``SEEN_AS``) it takes for that."""
_UNJUDGED = [_SLOT[f"role/{role}"] for role in SEEN_ROLES if role not in JUDGED]
_REGULARISATION = [_SLOT[f"role/{role}"] for role in sorted({seen_as(role) for role in REGULARISATION})]


def shapes() -> dict[str, tuple[int, ...]]:
    """The network's parameters: an actor and a critic of the same build."""
    found: dict[str, tuple[int, ...]] = {}
    for part in ("actor", "critic"):
        found |= {
            f"{part}.member.weight": (WIDTH, MEMBER),
            f"{part}.member.bias": (WIDTH,),
            f"{part}.token.weight": (WIDTH, TOKEN + WIDTH),
            f"{part}.token.bias": (WIDTH,),
            f"{part}.context.weight": (WIDTH, 2 * WIDTH),
            f"{part}.context.bias": (WIDTH,),
        }
    return found | {
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
    """Uniform within 1 / sqrt(inputs); small at the outputs, so that nothing is preferred at first."""
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

    The first decision reads the hyperparameters' heads as levels, later ones as moves. Options that mean nothing now
    (an empty slot, what is set at the start only, a copy where none is allowed) are impossible. What the network knows
    nothing of, a choice among equals or a role that is not ``JUDGED``, starts anywhere and stays.
    """
    member, tokens = _split(observations)
    each, context = _encode(weights, "actor", member, tokens, xp)
    joint = xp.tanh(
        _dense(weights, "actor.joint", each, first=0) + _dense(weights, "actor.joint", context, first=WIDTH)[:, None]
    )
    moves = _dense(weights, "actor.moves", joint) + weights["actor.moves.bias"]
    moves = moves + _move_prior(member, moves, xp)
    first = member[:, _MEMBER["first"]] > 0.5
    known = (tokens[..., _SLOT["present"]] > 0.5) & (tokens[..., _SLOT["ordered"]] > 0.5)
    known = known & (tokens[..., _UNJUDGED].sum(-1) < 0.5)
    live = tokens[..., _SLOT["live"]] > 0.5
    beginning = first[:, None] & (tokens[..., _SLOT["present"]] > 0.5)
    free = known & (first[:, None] | live)
    heads = moves
    if xp is not np or first.any():  # levels cost the most, and few decisions are first ones
        heads = 1.0 * moves
        begun = tokens[first]
        heads[first] = _levels(weights, begun, joint[first], xp) + _start_prior(member[first], begun, xp)
    stay = _one_hot(STAY, LEVELS, heads, xp)
    nothing = xp.where(beginning[..., None], 0.0 * heads, (1.0 - stay) * IMPOSSIBLE + 0.0 * heads)
    heads = xp.where(free[..., None], heads, nothing)
    sources = _dense(weights, "actor.source", context) + weights["actor.source.bias"]
    sources = sources + _source_prior(member, sources, xp)
    copying = (member[:, _MEMBER["copy_allowed"]] > 0.5) & ~first
    keep = _one_hot(SOURCES.index("keep"), len(SOURCES), heads, xp)
    sources = xp.where(copying[:, None], sources, (1.0 - keep) * IMPOSSIBLE + 0.0 * sources)
    return xp.concatenate([heads.reshape(len(heads), -1), sources], 1)


def values(weights: Mapping[str, Array], observations: Array, xp: Any) -> Array:
    """What the critic expects, shape (N,)."""
    member, tokens = _split(observations)
    _, context = _encode(weights, "critic", member, tokens, xp)
    return (_dense(weights, "critic.value", context) + weights["critic.value.bias"])[:, 0]


def _split(observations: Array) -> tuple[Array, Array]:
    return observations[:, :MEMBER], observations[:, MEMBER:].reshape(len(observations), -1, TOKEN)


def _encode(weights: Mapping[str, Array], part: str, member: Array, tokens: Array, xp: Any) -> tuple[Array, Array]:
    """What is known of each hyperparameter (N, H, WIDTH), and of the member with all of them (N, WIDTH)."""
    present = tokens[..., _SLOT["present"], None]
    trunk = xp.tanh(_dense(weights, f"{part}.member", member) + weights[f"{part}.member.bias"])
    token = f"{part}.token"
    about = _dense(weights, token, trunk, first=TOKEN) + weights[f"{token}.bias"]
    each = xp.tanh(_dense(weights, token, tokens, first=0) + about[:, None])
    pooled = (each * present).sum(1) / (present.sum(1) + 1e-6)
    context = f"{part}.context"
    whole = _dense(weights, context, trunk, first=0) + _dense(weights, context, pooled, first=WIDTH)
    return each, xp.tanh(whole + weights[f"{context}.bias"])


def _levels(weights: Mapping[str, Array], tokens: Array, joint: Array, xp: Any) -> Array:
    """A score for every starting level, from where it lies: (N, H, LEVELS)."""
    magnitude, position = _level_places(tokens, xp)
    inputs = xp.stack([position, magnitude, magnitude * magnitude / 4, (position == 0) * 1.0], -1)
    level = "actor.level"
    about = _dense(weights, level, joint, first=0) + weights[f"{level}.bias"]
    hidden = xp.tanh(_dense(weights, level, inputs, first=WIDTH) + about[:, :, None])
    return _dense(weights, "actor.start", hidden)[..., 0]


def _level_places(tokens: Array, xp: Any) -> tuple[Array, Array]:
    """Magnitude and position of every starting level, (N, H, LEVELS) each."""
    index = xp.arange(LEVELS) + 0.0 * tokens[..., 0, None]
    off = tokens[..., _REGULARISATION].sum(-1)[..., None]
    position = off * index / (LEVELS - 1) + (1.0 - off) * (index + 0.5) / LEVELS
    lower, upper = tokens[..., _SLOT["lower"], None], tokens[..., _SLOT["upper"], None]
    return lower + position * (upper - lower), position


def _start_prior(member: Array, tokens: Array, xp: Any) -> Array:
    """Where starting values lie before anything is learned: learning rates about a hand default, dropout mostly off,
    for an ensemble all regularisation, momentum mostly high, everything else anywhere. (N, H, LEVELS) log shares."""
    magnitude, position = _level_places(tokens, xp)
    sign = member[:, _MEMBER["optimiser"], None, None]
    centre = RATE_CENTRE + RATE_SIGN * sign
    rates = -(((magnitude - centre) / RATE_WIDTH) ** 2) / 2
    off = -OFF_SLOPE * position
    rate = tokens[..., _SLOT["role/learning_rate"], None] * tokens[..., _SLOT["log"], None]
    regularised = tokens[..., _REGULARISATION].sum(-1)[..., None]
    dropped = tokens[..., _SLOT["role/dropout"], None]
    mostly_off = dropped + (regularised - dropped) * member[:, _MEMBER["ensemble"], None, None]
    momentum = tokens[..., _SLOT["role/momentum"], None]
    return rate * rates + mostly_off * off + momentum * MOMENTUM_SLOPE * position


def _move_prior(member: Array, moves: Array, xp: Any) -> Array:
    """Stay for the most part; small steps about what is copied. Broadcasts to (N, H, LEVELS)."""
    stay = STAY_PRIOR + (RESTLESS_PRIOR - STAY_PRIOR) * _left_behind(member)
    return stay[:, None, None] * _one_hot(STAY, LEVELS, moves, xp) + _numbers(STEP_PRIOR, moves, xp)


def _source_prior(member: Array, sources: Array, xp: Any) -> Array:
    """Keep, but for those left behind, which mostly take the best one's weights or the second best one's."""
    before = _numbers(tuple(SOURCE_PRIOR[name] for name in SOURCES), sources, xp)
    after = _numbers(tuple(LEFT_BEHIND[name] for name in SOURCES), sources, xp)
    return before + (after - before) * _left_behind(member)[:, None]


def _left_behind(member: Array) -> Array:
    """1 for members of a single model's population that are to be replaced and may be now; (N,)."""
    behind = (member[:, _MEMBER["rank"]] > REPLACED) & (member[:, _MEMBER["copy_allowed"]] > 0.5)
    return (behind & (member[:, _MEMBER["ensemble"]] < 0.5)) * 1.0


def _dense(weights: Mapping[str, Array], name: str, inputs: Array, first: int = 0) -> Array:
    """The product with those columns of a weight, from ``first`` on, that belong to ``inputs``."""
    weight = weights[f"{name}.weight"]
    return inputs @ weight[:, first : first + inputs.shape[-1]].T


def _one_hot(index: int, size: int, like: Array, xp: Any) -> Array:
    return _numbers(tuple(float(i == index) for i in range(size)), like, xp)


def _numbers(numbers: tuple[float, ...], like: Array, xp: Any) -> Array:
    """Constants, as what ``xp`` calculates with."""
    return _constant(numbers) if xp is np else like.new_tensor(numbers)


@cache
def _constant(numbers: tuple[float, ...]) -> np.ndarray:
    found = np.array(numbers, dtype=np.float32)
    found.setflags(write=False)
    return found


class TokenPolicy(Rule):
    """Acts with a token network, by sampling. Learns nothing itself.

    Starting values are drawn so that a population covers the network's distribution: member k takes the k-th point of
    a Halton sequence, shifted at random. Each member's draw is distributed as the network says, two members' are not
    independent, and a population of any size is spread.

    Args:
        weights: by the names of ``shapes``.
        recording: keep what a learner needs with every choice.
    """

    schedule: Schedule | None = "late_cosine"
    starts = True
    copy_every: int | None = 2
    island: int | None = ISLAND

    def __init__(self, weights: Mapping[str, np.ndarray], *, version: int = 0, recording: bool = False) -> None:
        wrong = [name for name, shape in shapes().items() if name not in weights or weights[name].shape != shape]
        if wrong:
            raise ValueError(f"The controller's weights are of another version: {wrong[0]} is missing or differs.")
        self.weights = {name: np.asarray(weights[name], dtype=np.float32) for name in shapes()}
        self.version = version
        self._recording = recording
        self._shifts = np.zeros(0)

    def bind(self, observation: ObservationSpec, action: ActionSpec, *, seed: int) -> None:
        super().bind(observation, action, seed=seed)
        self._shifts = np.random.default_rng([seed, 0x4A17]).random(len(action.heads))

    def acts_like(self, other: Policy) -> bool:
        """Whether the other one, bound to the same task, answers all but first decisions as this one does."""
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
        # Slots that hold nothing stand between the hyperparameters' heads and the source's. Stopping is not among the
        # heads that the network knows, and stays neutral.
        logp = np.zeros(len(situations))
        first = 0
        for heads in (levels, logits[:, None, -len(SOURCES) :]):
            last = first + heads.shape[1]
            shares = _softmax(heads)
            below = np.cumsum(shares, axis=-1) < draws[:, first:last, None]
            taken = np.minimum(below.sum(axis=-1), heads.shape[-1] - 1)
            action[:, first:last] = taken
            likely = np.take_along_axis(shares, taken[..., None], axis=-1)[..., 0]
            logp += np.log(np.maximum(likely, 1e-12)).sum(axis=1)
            first = last
        return [
            Choice(
                action=tuple(row),
                logp=likely,
                version=self.version,
                extras={"action_dist_inputs": tuple(inputs), "action_logp": (likely,)} if self._recording else {},
            )
            for row, likely, inputs in zip(action.tolist(), logp.tolist(), logits.tolist(), strict=True)
        ]

    def choose(self, situation: Situation, rng: np.random.Generator) -> tuple[int, ...]:
        return self.act([situation])[0].action

    def _uniform(self, situation: Situation) -> np.ndarray:
        """A number in [0, 1) per head."""
        if situation.first:
            return spread(situation.member, self._shifts)
        return np.random.Generator(np.random.PCG64(situation.seed)).random(len(self._shifts))


def spread(member: int, shifts: np.ndarray) -> np.ndarray:
    """The member's point of a Halton sequence that ``shifts`` (dimensions,) move, in [0, 1) along each dimension."""
    points = np.array([halton(member, dimension) for dimension in range(len(shifts))])
    return np.asarray(np.mod(points + shifts, 1.0))


def halton(index: int, dimension: int) -> float:
    """Point ``index`` of the Halton sequence (Halton 1960), from its second on, along one dimension, in [0, 1).

    In large bases the first points lie side by side, so that eight members would try but two of seven levels of the
    twentieth hyperparameter: there the digits are permuted (generalised Halton, Faure and Lemieux 2009, section 2).

    ``scipy.stats.qmc.Halton`` gives the same; importing it would cost every driver more than a second.
    """
    base = _prime(dimension)
    digits = range(base) if dimension < PERMUTED_FROM else _permuted(base)
    share, result, index = 1.0 / base, 0.0, index + 1
    while index:
        index, digit = divmod(index, base)
        result += digits[digit] * share
        share /= base
    return result


@cache
def _permuted(base: int) -> tuple[int, ...]:
    """The digits of ``base`` in another order; 0 stays where it is."""
    return (0, *(1 + np.random.default_rng(base).permutation(base - 1)).tolist())


@cache
def _prime(index: int) -> int:
    found = [2]
    candidate = 3
    while len(found) <= index:
        if all(candidate % prime for prime in found):
            found.append(candidate)
        candidate += 2
    return found[index]


def _softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=-1, keepdims=True))
