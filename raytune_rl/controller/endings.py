"""How a report ends things: its member's episode or, where it shows a mistake of the user's, the whole run."""

from __future__ import annotations

from collections.abc import Iterable

from raytune_rl.records import Report


def ending(report: Report, *, segments: int | None, stopping: bool) -> str | None:
    """Why the member's episode ends with this report: ``failed``, ``done``, ``budget`` or ``stopped``; ``None`` = it
    goes on.

    Args:
        report: of the segment that has just been trained.
        segments: length of a member's training; ``None`` = unknown.
        stopping: whether everything is being stopped.
    """
    if report.status != "ok":
        return "failed"
    if report.done:
        return "done"
    if is_last_segment(report, segments=segments):
        return "budget"
    return "stopped" if stopping else None


def is_last_segment(report: Report, *, segments: int | None) -> bool:
    """Whether the member's training has no segment after the reported one."""
    return segments is not None and report.segment + 1 >= segments


def missing_metric(reports: Iterable[Report], metric: str) -> str | None:
    """The message for a user whose candidate does not report ``metric``; ``None`` where it does.

    Only a report can show this, so it cannot be checked before training starts.
    """
    for report in reports:
        if report.metrics and metric not in report.metrics and report.status in ("ok", "diverged"):
            known = ", ".join(sorted(report.metrics))
            return f"metric is {metric!r}, which the candidate does not report; it reports {known}."
    return None
