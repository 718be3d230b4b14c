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
"""So many members are steered together: meta-training has populations of 4 to 16."""
IMPOSSIBLE: Final = -1e4
"""The logit of an option that is not there. Finite, so that no difference of two is NaN."""

PERMUTED_FROM: Final = 6
"""The first dimension of starting points whose digits are permuted, see ``halton``."""
JUDGED: Final[frozenset[Role]] = frozenset(
    {"learning_rate", "weight_decay", "momentum", "dropout", "label_smoothing", "none"}
)
"""Roles that occur in meta-training. Of the others the network knows nothing, and what is seen as one of these (see
``SEEN_AS``) it takes for that."""
_UNJUDGED = [SLOT_INDEX[f"role/{role}"] for role in SEEN_ROLES if role not in JUDGED]


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
    moves = moves + move_prior(member, tokens, moves, xp)
    first = member[:, MEMBER_INDEX["first"]] > 0.5
    known = (tokens[..., SLOT_INDEX["present"]] > 0.5) & (tokens[..., SLOT_INDEX["ordered"]] > 0.5)
    known = known & (tokens[..., _UNJUDGED].sum(-1) < 0.5)
    live = tokens[..., SLOT_INDEX["live"]] > 0.5
    beginning = first[:, None] & (tokens[..., SLOT_INDEX["present"]] > 0.5)
    free = known & (first[:, None] | live)
    heads = moves
    if xp is not np or first.any():  # levels cost the most, and few decisions are first ones
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
    """What the critic expects, shape (N,)."""
    member, tokens = _split(observations)
    _, context = _encode(weights, "critic", member, tokens, xp)
    return (_dense(weights, "critic.value", context) + weights["critic.value.bias"])[:, 0]


def _split(observations: Array) -> tuple[Array, Array]:
    return observations[:, :MEMBER], observations[:, MEMBER:].reshape(len(observations), -1, TOKEN)


def _encode(weights: Mapping[str, Array], part: str, member: Array, tokens: Array, xp: Any) -> tuple[Array, Array]:
    """What is known of each hyperparameter (N, H, WIDTH), and of the member with all of them (N, WIDTH)."""
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
    """A score for every starting level, from where it lies: (N, H, LEVELS)."""
    magnitude, position = level_places(tokens, xp)
    inputs = xp.stack([position, magnitude, magnitude * magnitude / 4, (position == 0) * 1.0], -1)
    level = "actor.level"
    about = _dense(weights, level, joint, first=0) + weights[f"{level}.bias"]
    hidden = xp.tanh(_dense(weights, level, inputs, first=WIDTH) + about[:, :, None])
    return _dense(weights, "actor.start", hidden)[..., 0]


def _dense(weights: Mapping[str, Array], name: str, inputs: Array, first: int = 0) -> Array:
    """The product with those columns of a weight, from ``first`` on, that belong to ``inputs``."""
    weight = weights[f"{name}.weight"]
    return inputs @ weight[:, first : first + inputs.shape[-1]].T


class TokenPolicy(Rule):
    """Acts with a token network, by sampling. Learns nothing itself.

    Starting values are drawn so that a population covers the network's distribution: member k takes the k-th point of
    a Halton sequence, shifted at random. Each member's draw is distributed as the network says, two members' are not
    independent, and a population of any size is spread.

    Args:
        weights: by the names of ``shapes``.
        recording: whether choices carry what a learner needs (``Choice.extras``).

    Attributes:
        version: of the weights, noted in the choices; set by whoever updates the weights.

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
