"""Turns a controller's ``Step`` into results of trials, which Tune's callbacks expect."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from raytune_rl.records import Report, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One member's segment.

    Attributes:
        member: index of the member.
        result: see ``result_of``.
        over: whether the member's training ends with this segment.
    """

    member: int
    result: dict[str, Any]
    over: bool

    @property
    def iteration(self) -> int:
        """The segment's index + 1."""
        return int(self.result["training_iteration"])


def entries_of(step: Step) -> list[Entry]:
    """The entries of a step, one per report."""
    return [
        Entry(
            member=report.member,
            result=result_of(report, reward=reward, policy_version=opened.policy_version),
            over=decision.stop,
        )
        for report, opened, reward, decision in zip(
            step.reports, step.opened, step.rewards, step.decisions, strict=True
        )
    ]


def result_of(report: Report, *, reward: float, policy_version: int) -> dict[str, Any]:
    """A report as a result of Tune: its metrics by their names, and the following.

    ``hp/<name>``: the values that were in force; ``agent/reward`` and ``agent/policy_version``: of the decision that
    opened the segment; ``segment/steps``: the member's optimiser steps; ``segment/copied_from`` and
    ``segment/copied_segment``: only if weights were copied. ``training_iteration``, the x axis of all charts, is the
    segment's index + 1, so a segment that is trained again has the same x.
    """
    segment: dict[str, Any] = {"steps": report.steps}
    if report.copied_from is not None:
        segment |= {"copied_from": report.copied_from, "copied_segment": report.copied_segment}
    now = time.time()
    return {
        **report.metrics,
        "hp": dict(report.hyperparameters),
        "agent": {"reward": reward, "policy_version": policy_version},
        "segment": segment,
        "config": dict(report.hyperparameters),
        "training_iteration": report.segment + 1,
        "time_this_iter_s": report.seconds,
        "timestamp": int(now),
        "date": time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime(now)),
        "done": report.done,
    }
