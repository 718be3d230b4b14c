"""The state of a member: a summary of its past, all that observations, rewards and actions are computed from.

A state is frozen and small, because one is kept per member and segment, to rewind a member after a crash. ``advance``
uses nothing but the state before and a report, so a recorded trace gives the same states as the run did.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from raytune_rl.mdp.ensemble_stats import EnsembleStats
from raytune_rl.mdp.score import PENALTY, Score
from raytune_rl.records import Report, Status

SIGNALS: Final = ("train_loss", "loss_slope", "loss_noise", "grad_norm", "update_norm", "train_seconds")
"""Optional measurements of the training in a segment (``Report.signals``), each a number:

``train_loss``: mean training loss. ``loss_slope``: change of its natural log over the segment. ``loss_noise``: standard
deviation of the steps' losses around that trend / their mean. ``grad_norm``: mean L2 norm of the gradient.
``update_norm``: mean L2 norm of a step's update / L2 norm of the weights. ``train_seconds``: time spent training."""

HISTORY: Final = 3
"""Scores kept, newest first: enough for changes over one and two segments."""

FAILURE_COST: Final = 2.0
"""What a failed, hung or diverged segment costs, and the most that a later sound segment can cost, in score units: 2 =
a loss that grows by a factor of 7.4. Without the bound, one exploding loss would outweigh every other reward; if
NaN cost less than an explosion, an agent would learn to prefer NaN."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberState:
    """One member after ``segment`` segments.

    Attributes:
        member: index in the population.
        segment: segments completed.
        steps: optimiser steps taken.
        positions: the hyperparameters of the last segment (before any: of the first one), each in [0, 1].
        last_move: the change of the positions at the start of that segment.
        value: the metric, as reported; ``None`` before the first report or where there was none.
        score: of ``value``, higher is better; ``PENALTY`` after a segment that went wrong, ``None`` before the first.
        history: the scores of the last three sound segments, newest first.
        first_score: of the first sound segment.
        best_score, best_segment, best_positions: of the best sound segment (index from 0); ``None`` and ``()`` if none.
        credit: the score that rewards have paid for so far, see ``advance``. It starts at 0 (a loss of 0.98, an
            accuracy of 0) and not at the population's first score, which the first member to report cannot know.
        train_loss: mean training loss of the last segment, if known.
        gap: ln(validation loss + 0.02) - ln(training loss + 0.02), if both are known.
        gap_change: change of the gap over the last segment.
        signals: in the order of ``SIGNALS``, ``None`` where unknown.
        seconds: training time of the last segment.
        copy_age: segments trained since the weights were last replaced, or since the start.
        changed_segment: the last segment that began with new hyperparameters (neither those before nor those of the
            best segment) or with another member's weights; ``None`` = never.
        returned_segment: the last segment that began with a rollback by the floor (``controller.rollback``).
        dip: the deepest fall of the score below the best one since the best one was reached or weights were copied.
        recovered: the deepest fall that ended in a new best score without copied weights.
        restarts: segments that went wrong so far, each of which leads to a restart.
        status: how the last segment ended.
        alive: whether the member still trains.
        ensemble: its contribution to the ensemble; ``None`` where the objective is not the ensemble.
    """

    member: int
    positions: tuple[float, ...]
    segment: int = 0
    steps: int = 0
    last_move: tuple[float, ...] = ()
    value: float | None = None
    score: float | None = None
    history: tuple[float, ...] = ()
    first_score: float | None = None
    best_score: float | None = None
    best_segment: int | None = None
    best_positions: tuple[float, ...] = ()
    credit: float = 0.0
    train_loss: float | None = None
    gap: float | None = None
    gap_change: float | None = None
    signals: tuple[float | None, ...] = (None,) * len(SIGNALS)
    seconds: float = 0.0
    copy_age: int = 0
    changed_segment: int | None = None
    returned_segment: int | None = None
    dip: float = 0.0
    recovered: float = 0.0
    restarts: int = 0
    status: Status = "ok"
    alive: bool = True
    ensemble: EnsembleStats | None = None

    @classmethod
    def start(cls, member: int, positions: Sequence[float], *, ensemble: EnsembleStats | None = None) -> MemberState:
        """A member before its first segment. ``ensemble``: ``EnsembleStats()`` where the objective is the ensemble."""
        return cls(
            member=member,
            positions=tuple(positions),
            last_move=(0.0,) * len(positions),
            ensemble=ensemble,
        )

    def at(self, segment: int) -> MemberState:
        """A copy with its counter set to ``segment``, for a member that resumes where no state was kept."""
        return replace(self, segment=segment)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and tuples, by field."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        return plain | {"ensemble": None if self.ensemble is None else asdict(self.ensemble)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MemberState:
        """The inverse of ``to_dict``, after a round trip through JSON too."""
        plain: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in data.items()}
        ensemble = plain.get("ensemble")
        return cls(**{**plain, "ensemble": None if ensemble is None else EnsembleStats(**ensemble)})


def advance(state: MemberState, report: Report, *, score: Score, positions: Sequence[float]) -> MemberState:
    """The state after a report. Pure, and defined for every report, even if it holds NaN or infinity.

    Rewards are differences of ``credit``. It equals the score, with one exception: a failed segment lowers it by
    ``FAILURE_COST``, and no sound segment but the first lowers it by more. The rest of a larger fall is charged in the
    following segments while the score stays down, so once a member is sound again its rewards sum to its final score.

    Args:
        state: before the segment.
        report: of the segment. If ``report.metrics`` lacks the metric, the segment counts as diverged.
        score: the experiment's metric and direction.
        positions: the hyperparameters in force during the segment, one in [0, 1] each.
    """
    value = _finite(report.metrics.get(score.metric))
    status: Status = "diverged" if report.status == "ok" and value is None else report.status
    positions = tuple(positions)
    train_loss, gap = _generalisation(report, score)
    failed = status != "ok" or value is None
    new_score = PENALTY if failed or value is None else score.of(value)
    lowest = state.credit - FAILURE_COST
    if failed:
        updates: dict[str, Any] = {"credit": max(lowest, PENALTY), "restarts": state.restarts + 1}
    else:
        updates = {
            "history": (new_score, *state.history)[:HISTORY],
            "first_score": new_score if state.first_score is None else state.first_score,
            "credit": max(new_score, lowest) if state.history else new_score,
        }
        updates |= _fall(state, new_score, copied=report.copied_from is not None)
        if state.best_score is None or new_score > state.best_score:
            updates |= {"best_score": new_score, "best_segment": report.segment, "best_positions": positions}
    moved = state.segment > 0 and positions not in (state.positions, state.best_positions)
    if moved or report.copied_from not in (None, report.member):
        updates["changed_segment"] = report.segment
    return replace(
        state,
        segment=report.segment + 1,
        steps=report.steps,
        positions=positions,
        last_move=tuple(new - old for new, old in zip(positions, state.positions, strict=True)),
        value=value,
        score=new_score,
        train_loss=train_loss,
        gap=gap,
        gap_change=None if gap is None or state.gap is None else gap - state.gap,
        signals=tuple(_finite(report.signals.get(name)) for name in SIGNALS),
        seconds=_finite(report.seconds) or 0.0,
        copy_age=1 if report.copied_from is not None else state.copy_age + 1,
        status=status,
        **updates,
    )


def _fall(state: MemberState, new_score: float, *, copied: bool) -> dict[str, float]:
    """The changed ones of ``dip`` and ``recovered`` after a sound segment with that score."""
    fall = 0.0 if state.best_score is None else max(state.best_score - new_score, 0.0)
    if copied:
        return {"dip": fall}
    if fall == 0.0:
        return {"dip": 0.0, "recovered": max(state.recovered, state.dip)}
    return {"dip": max(state.dip, fall)}


def ranking(population: Iterable[MemberState]) -> list[MemberState]:
    """The members that are alive and have a score, best first; of equal scores the lower index first."""
    return sorted((s for s in population if s.alive and s.score is not None), key=rank_key)


def rank_key(state: MemberState) -> tuple[float, int]:
    """The sort key of ``ranking``. Members without a score come last."""
    return (math.inf if state.score is None else -state.score, state.member)


def training_seconds(state: MemberState) -> float:
    """Training time of the last segment: the candidate's measurement, otherwise the trial's; 0 = unknown."""
    measured = state.signals[SIGNALS.index("train_seconds")]
    return measured if measured is not None and measured > 0 else state.seconds


def score_change(state: MemberState, segments: int = 1) -> float | None:
    """The change of the score over the last ``segments`` sound segments (1 or 2); ``None`` if there were too few."""
    return state.history[0] - state.history[segments] if len(state.history) > segments else None


def _generalisation(report: Report, score: Score) -> tuple[float | None, float | None]:
    """The training loss, and the gap between it and the validation loss."""
    train = _finite(report.metrics.get("train_loss", report.signals.get("train_loss")))
    # A metric to be minimised stands in for the validation loss; one to be maximised measures something else.
    fallback = report.metrics.get(score.metric) if score.mode == "min" else None
    validation = _finite(report.metrics.get("validation_loss", fallback))
    if train is None or validation is None:
        return train, None
    loss = Score(metric="loss", mode="min")
    return train, loss.of(train) - loss.of(validation)


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
