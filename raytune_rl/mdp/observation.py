"""What an agent sees of a member: numbers that mean the same for every task, search space and population size.

One fixed block about the member and its population, then one block per hyperparameter with its role, so that a policy
can read a space that it has never seen. Whatever a state holds, the result is finite and inside [-4, 4]: NaN (unknown)
becomes 0, outliers are clipped. ``features.py`` documents every number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import itemgetter

import numpy as np

from raytune_rl.hyperparameters import SEEN_ROLES, Hyperparameter, SearchSpace
from raytune_rl.hyperparameters.roles import seen_as
from raytune_rl.mdp.crowd import Crowd
from raytune_rl.mdp.features import LIMIT, MEMBER_FEATURES, SLOT_FEATURES, slot_prefix
from raytune_rl.mdp.score import OFFSET
from raytune_rl.mdp.standing import Standing
from raytune_rl.mdp.state import SIGNALS, MemberState, change, training_seconds

__all__ = ["SIGNALS", "ObservationSpec"]

_IN_ORDER = itemgetter(*(row.name for row in MEMBER_FEATURES))

_NO_TEAM = Standing()

EDGE = 1e-9
"""A position this close to the end of its range is at its end."""


@dataclass(frozen=True)
class ObservationSpec:
    """The observation space of one experiment: ``size`` numbers in [-4, 4], named by ``features``.

    Attributes:
        space: the hyperparameters.
        optimiser: what the members train with, as the feature ``optimiser`` says it.
        slots: blocks for hyperparameters, at least ``len(space)`` (``None``: as many); the others are all zeros. A
            policy that is to serve several spaces needs the same number of slots in each.

    Raises:
        ValueError: fewer slots than hyperparameters.
    """

    space: SearchSpace
    slots: int | None = None
    optimiser: float = 0.0
    features: tuple[str, ...] = field(init=False, repr=False, compare=False)
    _fixed: tuple[_Fixed, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        slots = len(self.space) if self.slots is None else self.slots
        if slots < len(self.space):
            raise ValueError(f"slots={slots} must be at least the number of hyperparameters, {len(self.space)}")
        names: list[str | None] = [*self.space.names, *[None] * (slots - len(self.space))]
        prefixes = [slot_prefix(name, slot) for slot, name in enumerate(names)]
        features = [row.name for row in MEMBER_FEATURES]
        features += [f"{prefix}/{row.name}" for prefix in prefixes for row in SLOT_FEATURES]
        object.__setattr__(self, "features", tuple(features))
        # What a slot says about its hyperparameter never changes, so it is worked out once.
        object.__setattr__(self, "_fixed", tuple(_description(h) for h in self.space))

    @property
    def size(self) -> int:
        """The number of features, F."""
        return len(self.features)

    def index(self, feature: str) -> int:
        """Where ``feature`` is in an observation.

        Raises:
            ValueError: there is no such feature.
        """
        return self.features.index(feature)

    def observe(
        self,
        state: MemberState,
        population: Sequence[MemberState] | Crowd,
        *,
        segments: int | None,
        incumbent_score: float | None,
        copy_allowed: bool,
    ) -> np.ndarray:
        """One observation, float32 of shape (F,), finite and in [-4, 4].

        Args:
            state: the member's newest state, or one made by ``MemberState.start`` before its first decision.
            population: the newest states of all members, with or without this one; those not alive are left out. Who
                observes several members of one population passes its ``Crowd``, made once.
            segments: length of a member's training; ``None`` = unknown.
            incumbent_score: the best score that any member has ever had, if any.
            copy_allowed: whether weights may be taken from elsewhere at this decision.
        """
        crowd = population if isinstance(population, Crowd) else Crowd.of(population, len(self.space))
        member = {
            **_time(state, segments),
            **_standing(state, crowd, _number(incumbent_score)),
            **_course(state),
            "copy_allowed": float(copy_allowed),
            "optimiser": self.optimiser,
            **_signals(state, crowd),
            **_surroundings(crowd),
            **_team(state, crowd),
        }
        values = [*_IN_ORDER(member)]
        for slot, fixed in enumerate(self._fixed):
            values += _slot(state, crowd, slot, fixed)
        values += [0.0] * (self.size - len(values))
        # Clipped as doubles: a float32 would already be infinite for values that a double can hold.
        seen = np.array(values, dtype=np.float64)
        seen[np.isnan(seen)] = 0.0
        return np.clip(seen, -LIMIT, LIMIT).astype(np.float32)


def _time(state: MemberState, segments: int | None) -> dict[str, float]:
    known = segments is not None and segments > 0
    progress = min(max(state.segment / segments, 0.0), 1.0) if segments and known else 0.0
    return {
        "progress": progress,
        "remaining": (1.0 - progress) * (1.0 - progress) if known else 0.0,
        "horizon_known": float(known),
        "elapsed": _age(state.segment),
        "first": float(state.segment == 0),
        "last": float(segments is not None and known and state.segment + 1 >= segments),
    }


def _standing(state: MemberState, crowd: Crowd, incumbent: float) -> dict[str, float]:
    score = _number(state.score)
    rank = crowd.rank(state)
    best = crowd.ranked[0].score if crowd.ranked else None
    return {
        "gain": score - _number(state.first_score),
        # A member that has finished is no longer in the ranking, and may be better than all that are.
        "to_best": min(score - _number(best), 0.0),
        "to_median": score - crowd.median,
        "z_score": (score - crowd.mean) / crowd.spread if crowd.spread > 1e-6 else 0.0,
        # Before its first report a member is neither good nor bad.
        "rank": 0.5 if math.isnan(rank) else rank,
        "is_best": float(rank == 0.0),
        "to_incumbent": min(score - incumbent, 0.0),
        "to_own_best": min(score - _number(state.best_score), 0.0),
        "own_best_age": 0.0 if state.best_segment is None else _age(state.segment - 1 - state.best_segment),
    }


def _course(state: MemberState) -> dict[str, float]:
    return {
        "change_1": _number(change(state, 1)),
        "change_2": _number(change(state, 2)),
        "gap": _number(state.gap),
        "gap_change": _number(state.gap_change),
        "copy_age": _age(state.copy_age),
        "restarts": state.restarts / 2,
        "failed": float(state.status != "ok"),
    }


def _signals(state: MemberState, crowd: Crowd) -> dict[str, float]:
    known = dict(zip(SIGNALS, map(_number, state.signals), strict=False))
    return {
        "signals_known": sum(not math.isnan(value) for value in known.values()) / len(SIGNALS),
        "train_loss": crowd.train_loss - _log(_number(state.train_loss) + OFFSET),
        "loss_slope": known["loss_slope"],
        "loss_noise": abs(known["loss_noise"]),
        "grad_norm": _log(known["grad_norm"]) / math.log(10),
        "update_norm": _log(known["update_norm"]) / math.log(10) + 3.0,
        "train_seconds": _log(training_seconds(state)) - _log(crowd.seconds),
    }


def _surroundings(crowd: Crowd) -> dict[str, float]:
    return {
        "population": _log(float(max(crowd.size, 1))) / 2,
        "score_spread": crowd.spread,
        "mean_change": crowd.mean_change,
        "best_change": _number(change(crowd.best)) if crowd.best else math.nan,
        "best_gap": _number(crowd.best.gap) if crowd.best else math.nan,
    }


def _slot(state: MemberState, crowd: Crowd, slot: int, fixed: _Fixed) -> list[float]:
    position = state.positions[slot]
    return [
        1.0,
        position,
        state.last_move[slot],
        crowd.best.positions[slot] - position if crowd.best else 0.0,
        crowd.position_spread[slot],
        crowd.position_mean[slot] - position,
        crowd.lead[slot],
        float(position <= EDGE),
        float(position >= 1.0 - EDGE),
        *fixed.flags,
        _linear(fixed, position) if fixed.log else math.asinh(_linear(fixed, position)),
        fixed.lower if fixed.log else math.asinh(fixed.lower),
        fixed.upper if fixed.log else math.asinh(fixed.upper),
        *fixed.roles,
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fixed:
    """What a slot says of its hyperparameter and never changes. Bounds: log10 + 2 on a log scale."""

    flags: tuple[float, ...]
    roles: tuple[float, ...]
    log: bool
    lower: float
    upper: float


def _description(hyperparameter: Hyperparameter) -> _Fixed:
    flags = (hyperparameter.live, hyperparameter.is_log, hyperparameter.is_ordered)
    ends = [float(getattr(hyperparameter, end, 0.0)) for end in ("lower", "upper")]  # a choice has none
    lower, upper = [math.log10(end) + 2.0 if hyperparameter.is_log else end for end in ends]
    return _Fixed(
        flags=tuple(map(float, flags)),
        roles=tuple(float(seen_as(hyperparameter.role) == role) for role in SEEN_ROLES),
        log=hyperparameter.is_log,
        lower=lower,
        upper=upper,
    )


def _linear(fixed: _Fixed, position: float) -> float:
    return fixed.lower + position * (fixed.upper - fixed.lower)


def _team(state: MemberState, crowd: Crowd) -> dict[str, float]:
    team = state.team or _NO_TEAM
    return {
        "ensemble": float(state.team is not None),
        "contribution": crowd.size * team.contribution,
        "contribution_change": crowd.size * team.contribution_change,
        "greedy_weight": team.weight,
        "distance": team.distance,
        "nearest": team.nearest,
        "team_spread": team.spread,
        "ensemble_gain": team.greedy - team.best,
        "uniform_gain": team.uniform - team.best,
        "ensemble_change": team.greedy_change,
    }


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _log(x: float) -> float:
    """ln(x) for positive x, NaN for everything that has no logarithm."""
    return math.log(x) if x > 0 else math.nan


def _age(segments: int) -> float:
    """Ages are seen on a log scale: one segment more matters early."""
    return math.log1p(max(segments, 0)) / 2
