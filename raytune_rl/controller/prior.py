"""The prior of the token network: logits that its learned ones are added to.

For a single model the prior resembles PBT: starting values near a hand default, copies of the best members by the worst
ones, small moves around copied values. For an ensemble it steers the population as one: starting values closer to a
hand default, live learning rates (on a log scale) that all move towards those of the best members, one early rescue of
the worst members, and hardly any other copies, which would make the members alike.

The numbers were chosen in ``META_TRAIN`` worlds and on training tables; ``experiments/controller/LOG.md`` says what was
tried. The values for small populations and the rescue window were reasoned, not tuned.

Limitation: the observation clips ends of ranges below 1e-6, so positions in such ranges are misread here.
"""

from __future__ import annotations

import math
from typing import Any, Final

from raytune_rl.controller.arrays import MEMBER_INDEX, SLOT_INDEX, Array, numbers, one_hot
from raytune_rl.hyperparameters import LEVELS, STAY
from raytune_rl.hyperparameters.kinds import LEARNING_RATE_FACTORS
from raytune_rl.hyperparameters.roles import REGULARISATION, seen_as
from raytune_rl.mdp.action import SOURCES

PRIOR: Final = 2
"""Version of this prior. Weights were learned on top of it, and do not work on top of another one."""

# Starting values.
RATE_CENTRE, RATE_SIGN = -1.56 + 2.0, -0.74
"""log10 + 2 of the centre of starting learning rates is CENTRE + SIGN * the feature ``optimiser`` (0.15 for SGD, 0.005
for Adam)."""
TEAM_RATE_CENTRE, TEAM_RATE_SIGN = 0.0, -1.0
"""The same for an ensemble: the usual defaults (0.1 for SGD, 0.001 for Adam)."""
RATE_WIDTH: Final = 0.5
"""Standard deviation of starting learning rates, in decades."""
OFF_SLOPE, TEAM_OFF_SLOPE, MOMENTUM_SLOPE = 3.0, 8.0, 7.0
"""Log odds, in nats: no regularisation against full, for a single model and for an ensemble; the highest momentum
against the lowest."""
DECAY_CENTRE, DECAY_WIDTH = -4.0 + 2.0, 0.5
"""log10 + 2 of the centre of an ensemble's weight decay, and its standard deviation."""

# Moves.
STEP_PRIOR: Final = (-2.5, -1.2, 0.0, 0.0, 0.0, -1.2, -2.5)
"""Logits of the moves: small steps are more likely than large ones. Staying gets one of the next three in addition."""
STAY_PRIOR, TEAM_STAY_PRIOR, RESTLESS_PRIOR = 4.0, 5.0, 0.3
"""For members that go on, in a single model's and in an ensemble's population; and for members that are behind and may
copy, which explore around what they copy, as in PBT."""
TOGETHER, TOGETHER_UNTIL = 0.5, 0.7
"""In an ensemble's population all learning rates move together wherever copies are allowed: by this share of the way to
those of the best members, until this share of the run (always, where the run's length is unknown)."""
SMALL_TEAM: Final = 4
"""Fewer members than that neither move together nor are rescued: half of them are too few for a direction, and each of
them is a large part of the ensemble."""
ROUNDING: Final = 0.09
"""Standard deviation, in decades, of a move around that way. Moves are discrete, and each member draws its own, so the
population moves the right way on average."""

# Sources.
REPLACED: Final = 0.8
"""A member is behind if more than this share of the others is better."""
SOURCE_PRIOR: Final = {"keep": 4.0, "best": 0.0, "second": 0.0, "incumbent": -1.0, "own_best": -1.0}
LEFT_BEHIND: Final = {"keep": 0.0, "best": 1.3, "second": 0.7, "incumbent": -1.0, "own_best": -1.5}
TEAM_SOURCE_PRIOR: Final = {"keep": 6.0, "best": 0.0, "second": 0.0, "incumbent": -1.0, "own_best": -1.0}
RESCUED: Final = {"keep": -1.0, "best": 1.0, "second": 1.0, "incumbent": -1.0, "own_best": -3.0}
"""Logits of the sources: in a single model's population for members that go on and for those behind; then the same in
an ensemble's population."""
RESCUE_FROM, RESCUE_UNTIL = 0.15, 0.3
"""The part of the run, as shares, in which an ensemble's members that are behind are rescued, each at most once."""

_RATE_STEPS: Final = tuple(math.log10(factor) for factor in LEARNING_RATE_FACTORS)
_REGULARISATION = [SLOT_INDEX[f"role/{role}"] for role in sorted({seen_as(role) for role in REGULARISATION})]


def start_prior(member: Array, tokens: Array, xp: Any) -> Array:
    """The prior of starting values.

    Learning rates lie around a hand default, dropout is mostly off, momentum mostly high, everything else uniform. For
    an ensemble all regularisation is mostly off, except for a little weight decay where its scale is logarithmic.

    Args:
        member: the observations' blocks about the member, (N, features).
        tokens: their blocks about the hyperparameters, (N, H, features).
        xp: numpy or torch.

    Returns:
        Logits, (N, H, LEVELS).
    """
    magnitude, position = level_places(tokens, xp)
    sign, team = (member[:, MEMBER_INDEX[name], None, None] for name in ("optimiser", "ensemble"))
    log = _slot(tokens, "log")
    alone_centre, team_centre = RATE_CENTRE + RATE_SIGN * sign, TEAM_RATE_CENTRE + TEAM_RATE_SIGN * sign
    rates = _about(magnitude, alone_centre + (team_centre - alone_centre) * team, RATE_WIDTH)
    regularised = tokens[..., _REGULARISATION].sum(-1)[..., None]
    dropped, decayed = _slot(tokens, "role/dropout"), log * _slot(tokens, "role/weight_decay")
    alone_off = dropped * -OFF_SLOPE * position
    team_off = (regularised - decayed) * -TEAM_OFF_SLOPE * position
    team_off = team_off + decayed * _about(magnitude, DECAY_CENTRE, DECAY_WIDTH)
    off = alone_off + (team_off - alone_off) * team
    momentum = _slot(tokens, "role/momentum")
    return log * _slot(tokens, "role/learning_rate") * rates + off + momentum * MOMENTUM_SLOPE * position


def level_places(tokens: Array, xp: Any) -> tuple[Array, Array]:
    """Magnitude and position of every starting level, (N, H, LEVELS) each."""
    index = xp.arange(LEVELS) + 0.0 * tokens[..., 0, None]
    off = tokens[..., _REGULARISATION].sum(-1)[..., None]
    position = off * index / (LEVELS - 1) + (1.0 - off) * (index + 0.5) / LEVELS
    lower, upper = _slot(tokens, "lower"), _slot(tokens, "upper")
    return lower + position * (upper - lower), position


def move_prior(member: Array, tokens: Array, like: Array, xp: Any) -> Array:
    """The prior of moves: mostly stay; small steps around copied values; an ensemble's learning rates move together.

    ``member`` and ``tokens`` as in ``start_prior``. Returns logits (N, H, LEVELS), an array like ``like``.
    """
    team = member[:, MEMBER_INDEX["ensemble"]]
    stay = STAY_PRIOR + (TEAM_STAY_PRIOR - STAY_PRIOR) * team + (RESTLESS_PRIOR - STAY_PRIOR) * _left_behind(member)
    each = stay[:, None, None] * one_hot(STAY, LEVELS, like, xp) + numbers(STEP_PRIOR, like, xp)
    now = (member[:, MEMBER_INDEX["progress"]] <= TOGETHER_UNTIL) & (member[:, MEMBER_INDEX["copy_allowed"]] > 0.5)
    now = team * (now & _many(member))
    as_one = now[:, None, None] * _slot(tokens, "log") * _slot(tokens, "role/learning_rate")
    decades = _slot(tokens, "lead") * (_slot(tokens, "upper") - _slot(tokens, "lower"))
    shift = _about(numbers(_RATE_STEPS, like, xp), TOGETHER * decades, ROUNDING)
    return each + as_one * (shift - each)


def source_prior(member: Array, like: Array, xp: Any) -> Array:
    """The prior of sources: keep, except for members that are behind, which mostly copy from the best or second best
    member (in an ensemble's population only early in the run). Logits (N, sources), an array like ``like``."""
    going_on, behind, team_going_on, rescued = (
        numbers(tuple(prior[name] for name in SOURCES), like, xp)
        for prior in (SOURCE_PRIOR, LEFT_BEHIND, TEAM_SOURCE_PRIOR, RESCUED)
    )
    team = member[:, MEMBER_INDEX["ensemble"], None]
    alone = going_on + (behind - going_on) * _left_behind(member)[:, None]
    in_team = team_going_on + (rescued - team_going_on) * _to_rescue(member)[:, None]
    return alone + (in_team - alone) * team


def _left_behind(member: Array) -> Array:
    """1 for members of a single model's population that are behind and may copy now; (N,)."""
    return (_behind(member) & (member[:, MEMBER_INDEX["ensemble"]] < 0.5)) * 1.0


def _to_rescue(member: Array) -> Array:
    """1 for members that are rescued now if their population is an ensemble's; (N,)."""
    progress = member[:, MEMBER_INDEX["progress"]]
    early = (progress >= RESCUE_FROM) & (progress < RESCUE_UNTIL)
    own = member[:, MEMBER_INDEX["copy_age"]] > member[:, MEMBER_INDEX["elapsed"]] - 1e-3  # never copied
    return (_behind(member) & _many(member) & early & own) * 1.0


def _many(member: Array) -> Array:
    """Whether the member's population is large enough to be steered as one; (N,)."""
    return member[:, MEMBER_INDEX["population"]] > math.log(SMALL_TEAM) / 2 - 1e-3


def _behind(member: Array) -> Array:
    return (member[:, MEMBER_INDEX["rank"]] > REPLACED) & (member[:, MEMBER_INDEX["copy_allowed"]] > 0.5)


def _about(magnitude: Array, centre: Array | float, width: float) -> Array:
    """The log density of a normal distribution, up to a constant."""
    return -(((magnitude - centre) / width) ** 2) / 2


def _slot(tokens: Array, name: str) -> Array:
    """A feature of each hyperparameter's block, (N, H, 1)."""
    return tokens[..., SLOT_INDEX[name], None]
