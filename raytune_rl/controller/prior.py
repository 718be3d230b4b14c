"""What a token network does before it has learned anything, as logits that learning adds to.

For a single model something like PBT: starting values about a hand default, copies of the best by those left behind,
small moves about what is copied. For an ensemble a population that is steered as one: starting values closer to a hand
default, live learning rates (on a log scale) shifted together to where the best members' lie, one early rescue of the
worst, and hardly any other copies, which would make the members alike. The numbers were chosen in ``META_TRAIN`` worlds
and on training tables, those about small teams and the time of the rescue by reason; what was tried is in
``experiments/controller/LOG.md``.

The observation clips ends of ranges below 1e-6, so of such ranges it misjudges where a value lies.
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
"""Version of all that follows: weights were learned on top of it, and are worth nothing on top of another one."""

# Starting values.
RATE_CENTRE, RATE_SIGN = -1.56 + 2.0, -0.74
"""log10 + 2 of the learning rate that starting values gather about (0.15 for SGD, 0.005 for Adam)."""
TEAM_RATE_CENTRE, TEAM_RATE_SIGN = 0.0, -1.0
"""The same for an ensemble: the usual default (0.1 for SGD, 0.001 for Adam)."""
RATE_WIDTH: Final = 0.5
"""Its spread, in decades."""
OFF_SLOPE, TEAM_OFF_SLOPE, MOMENTUM_SLOPE = 3.0, 8.0, 7.0
"""How much less likely full regularisation is than none, for a single model and for an ensemble, and the lowest
momentum than the highest, in nats."""
DECAY_CENTRE, DECAY_WIDTH = -4.0 + 2.0, 0.5
"""log10 + 2 of an ensemble's weight decay, and its spread."""

# Moves.
STEP_PRIOR: Final = (-2.5, -1.2, 0.0, 0.0, 0.0, -1.2, -2.5)
"""Logits of the moves: small steps before large ones. Staying has one of the next three on top of it."""
STAY_PRIOR, TEAM_STAY_PRIOR, RESTLESS_PRIOR = 4.0, 5.0, 0.3
"""For who goes on, in a single model's and in an ensemble's population, and for who has been left behind and may copy:
it explores about what it copies, as in PBT."""
TOGETHER, TOGETHER_UNTIL = 0.5, 0.7
"""The share of the way to the best members' learning rates that an ensemble's whole population moves at once, wherever
copies are allowed, and the share of the run in which it does (always, where the run's length is unknown)."""
SMALL_TEAM: Final = 4
"""Fewer members than that neither move together nor are rescued: half of them is no direction, and one of them half of
the ensemble."""
ROUNDING: Final = 0.09
"""Decades about that way in which a move is likely. Each member draws its own, so that the population moves the way on
average, though the moves are few."""

# Sources.
REPLACED: Final = 0.8
"""Members that more than this share of the others are better than have been left behind."""
SOURCE_PRIOR: Final = {"keep": 4.0, "best": 0.0, "second": 0.0, "incumbent": -1.0, "own_best": -1.0}
LEFT_BEHIND: Final = {"keep": 0.0, "best": 1.3, "second": 0.7, "incumbent": -1.0, "own_best": -1.5}
TEAM_SOURCE_PRIOR: Final = {"keep": 6.0, "best": 0.0, "second": 0.0, "incumbent": -1.0, "own_best": -1.0}
RESCUED: Final = {"keep": -1.0, "best": 1.0, "second": 1.0, "incumbent": -1.0, "own_best": -3.0}
"""Logits of the sources, for who goes on and who has been left behind, of a single model's population and of an
ensemble's."""
RESCUE_FROM, RESCUE_UNTIL = 0.15, 0.3
"""The part of the run, as shares, in which an ensemble's members that have been left behind are rescued, each of them
once at most."""

_RATE_STEPS: Final = tuple(math.log10(factor) for factor in LEARNING_RATE_FACTORS)
_REGULARISATION = [SLOT_INDEX[f"role/{role}"] for role in sorted({seen_as(role) for role in REGULARISATION})]


def start_prior(member: Array, tokens: Array, xp: Any) -> Array:
    """Where starting values lie: learning rates about a hand default, dropout mostly off, momentum mostly high; for an
    ensemble all regularisation mostly off but a little weight decay (off, too, on a linear scale); everything else
    anywhere.

    Args:
        member: the observations' blocks about the member, (N, features).
        tokens: their blocks about the hyperparameters, (N, H, features).
        xp: numpy or torch.

    Returns:
        Log shares, (N, H, LEVELS).
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
    """Stay for the most part; small steps about what is copied; an ensemble's learning rates all together. Log shares
    (N, H, LEVELS), an array like ``like``."""
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
    """Keep, but for those left behind: they mostly take the best one's weights or the second best one's; an ensemble's
    early in the run only. Logits (N, sources), an array like ``like``."""
    before, after, team_before, rescued = (
        numbers(tuple(prior[name] for name in SOURCES), like, xp)
        for prior in (SOURCE_PRIOR, LEFT_BEHIND, TEAM_SOURCE_PRIOR, RESCUED)
    )
    team = member[:, MEMBER_INDEX["ensemble"], None]
    alone = before + (after - before) * _left_behind(member)[:, None]
    in_team = team_before + (rescued - team_before) * _in_need(member)[:, None]
    return alone + (in_team - alone) * team


def _left_behind(member: Array) -> Array:
    """1 for members of a single model's population that are to be replaced and may be now; (N,)."""
    return (_behind(member) & (member[:, MEMBER_INDEX["ensemble"]] < 0.5)) * 1.0


def _in_need(member: Array) -> Array:
    """1 for those that are to be rescued if theirs is an ensemble; (N,)."""
    progress = member[:, MEMBER_INDEX["progress"]]
    early = (progress >= RESCUE_FROM) & (progress < RESCUE_UNTIL)
    own = member[:, MEMBER_INDEX["copy_age"]] > member[:, MEMBER_INDEX["elapsed"]] - 1e-3  # never taken from elsewhere
    return (_behind(member) & _many(member) & early & own) * 1.0


def _many(member: Array) -> Array:
    """Whether the member's population is large enough to be steered as one; (N,)."""
    return member[:, MEMBER_INDEX["population"]] > math.log(SMALL_TEAM) / 2 - 1e-3


def _behind(member: Array) -> Array:
    return (member[:, MEMBER_INDEX["rank"]] > REPLACED) & (member[:, MEMBER_INDEX["copy_allowed"]] > 0.5)


def _about(magnitude: Array, centre: Array | float, width: float) -> Array:
    """Log shares of a normal distribution."""
    return -(((magnitude - centre) / width) ** 2) / 2


def _slot(tokens: Array, name: str) -> Array:
    """A feature of every hyperparameter, (N, H, 1)."""
    return tokens[..., SLOT_INDEX[name], None]
