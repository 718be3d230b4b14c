"""The observation: what an agent sees of a member, in units that mean the same for every task and search space.

It has one fixed block about the member and its population, then one block per hyperparameter with its role, so that a
policy can read a space that it has never seen. All numbers are finite and inside [-4, 4]: unknown ones (NaN) become 0,
outliers are clipped. ``features.py`` documents each of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Final

import numpy as np

from raytune_rl.hyperparameters import SEEN_ROLES, Hyperparameter, SearchSpace
from raytune_rl.hyperparameters.roles import seen_as
from raytune_rl.mdp.ensemble_stats import EnsembleStats
from raytune_rl.mdp.features import LIMIT, MEMBER_FEATURES, SLOT_FEATURES, slot_prefix
from raytune_rl.mdp.population_stats import PopulationStats
from raytune_rl.mdp.score import OFFSET
from raytune_rl.mdp.state import SIGNALS, MemberState, score_change, training_seconds

_IN_ORDER = itemgetter(*(row.name for row in MEMBER_FEATURES))

_NO_ENSEMBLE = EnsembleStats()

EDGE: Final = 1e-9
"""A position this close to an end of [0, 1] counts as at the end of its range."""


@dataclass(frozen=True)
class ObservationSpec:
    """The observation space of one experiment: ``size`` numbers in [-4, 4], named by ``features``.

    Attributes:
        space: the hyperparameters.
        slots: number of blocks for hyperparameters, at least ``len(space)``; ``None``: that many. Blocks without a
            hyperparameter are 0. A policy with inputs of a fixed size needs the same number in every space.
        optimiser: value of the feature ``optimiser``: 1 = Adam, -1 = plain SGD, 0 = unknown.
        features: the names of the F numbers, in order.

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
        # The constant part of each block is computed once.
        object.__setattr__(self, "_fixed", tuple(_description(h) for h in self.space))

    @property
    def size(self) -> int:
        """The number of features, F."""
        return len(self.features)

    def index(self, feature: str) -> int:
        """The index of ``feature`` in an observation.

        Raises:
            ValueError: there is no such feature.
        """
        return self.features.index(feature)

    def observe(
        self,
        state: MemberState,
        population: Sequence[MemberState] | PopulationStats,
        *,
        segments: int | None,
        incumbent_score: float | None,
        copy_allowed: bool,
    ) -> np.ndarray:
        """One observation, float32 of shape (F,), finite and in [-4, 4].

        Args:
            state: the member's newest state, or one made by ``MemberState.start`` before its first decision.
            population: the newest states of all members, with or without this one (only living ones count), or their
                ``PopulationStats``, which a caller computes once for several members.
            segments: length of a member's training; ``None`` = unknown.
            incumbent_score: the best score that any member has ever had, if any.
            copy_allowed: whether weights may be copied at this decision.
        """
        stats = (
            population if isinstance(population, PopulationStats) else PopulationStats.of(population, len(self.space))
        )
        member = {
            **_time(state, segments),
            **_performance(state, stats, _number(incumbent_score)),
            **_trend(state),
            "copy_allowed": float(copy_allowed),
            "optimiser": self.optimiser,
            **_signals(state, stats),
            **_population(stats),
            **_ensemble(state, stats),
        }
        values = [*_IN_ORDER(member)]
        for slot, fixed in enumerate(self._fixed):
            values += _slot(state, stats, slot, fixed)
        values += [0.0] * (self.size - len(values))
        # Clipped as float64: some of the values would be infinite in float32.
        observation = np.array(values, dtype=np.float64)
        observation[np.isnan(observation)] = 0.0
        return np.clip(observation, -LIMIT, LIMIT).astype(np.float32)


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


def _performance(state: MemberState, stats: PopulationStats, incumbent: float) -> dict[str, float]:
    score = _number(state.score)
    rank = stats.rank(state)
    best = stats.ranked[0].score if stats.ranked else None
    return {
        "gain": score - _number(state.first_score),
        # At most 0, because a member that has finished is not ranked and may be better than all that are.
        "to_best": min(score - _number(best), 0.0),
        "to_median": score - stats.median,
        "z_score": (score - stats.mean) / stats.spread if stats.spread > 1e-6 else 0.0,
        # A member without a report is ranked in the middle.
        "rank": 0.5 if math.isnan(rank) else rank,
        "is_best": float(rank == 0.0),
        "to_incumbent": min(score - incumbent, 0.0),
        "to_own_best": min(score - _number(state.best_score), 0.0),
        "own_best_age": 0.0 if state.best_segment is None else _age(state.segment - 1 - state.best_segment),
    }


def _trend(state: MemberState) -> dict[str, float]:
    return {
        "change_1": _number(score_change(state, 1)),
        "change_2": _number(score_change(state, 2)),
        "gap": _number(state.gap),
        "gap_change": _number(state.gap_change),
        "copy_age": _age(state.copy_age),
        "restarts": state.restarts / 2,
        "failed": float(state.status != "ok"),
    }


def _signals(state: MemberState, stats: PopulationStats) -> dict[str, float]:
    known = dict(zip(SIGNALS, map(_number, state.signals), strict=False))
    return {
        "signals_known": sum(not math.isnan(value) for value in known.values()) / len(SIGNALS),
        "train_loss": stats.train_loss - _log(_number(state.train_loss) + OFFSET),
        "loss_slope": known["loss_slope"],
        "loss_noise": abs(known["loss_noise"]),
        "grad_norm": _log(known["grad_norm"]) / math.log(10),
        "update_norm": _log(known["update_norm"]) / math.log(10) + 3.0,
        "train_seconds": _log(training_seconds(state)) - _log(stats.seconds),
    }


def _population(stats: PopulationStats) -> dict[str, float]:
    return {
        "population": _log(float(max(stats.size, 1))) / 2,
        "score_spread": stats.spread,
        "mean_change": stats.mean_change,
        "best_change": _number(score_change(stats.best)) if stats.best else math.nan,
        "best_gap": _number(stats.best.gap) if stats.best else math.nan,
    }


def _slot(state: MemberState, stats: PopulationStats, slot: int, fixed: _Fixed) -> list[float]:
    position = state.positions[slot]
    return [
        1.0,
        position,
        state.last_move[slot],
        stats.best.positions[slot] - position if stats.best else 0.0,
        stats.position_spread[slot],
        stats.position_mean[slot] - position,
        stats.lead[slot],
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
    """The constant part of a hyperparameter's block. ``lower`` and ``upper`` are log10 + 2 on a log scale."""

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


def _ensemble(state: MemberState, stats: PopulationStats) -> dict[str, float]:
    ensemble = state.ensemble or _NO_ENSEMBLE
    return {
        "ensemble": float(state.ensemble is not None),
        "contribution": stats.size * ensemble.contribution,
        "contribution_change": stats.size * ensemble.contribution_change,
        "greedy_weight": ensemble.weight,
        "distance": ensemble.distance,
        "nearest": ensemble.nearest,
        "team_spread": ensemble.spread,
        "ensemble_gain": ensemble.greedy - ensemble.best,
        "uniform_gain": ensemble.uniform - ensemble.best,
        "ensemble_change": ensemble.greedy_change,
    }


def _number(value: float | None) -> float:
    """NaN for ``None``."""
    return math.nan if value is None else value


def _log(x: float) -> float:
    """ln(x) for positive x, otherwise NaN."""
    return math.log(x) if x > 0 else math.nan


def _age(segments: int) -> float:
    """An age on a log scale: one segment more matters most at the beginning."""
    return math.log1p(max(segments, 0)) / 2
