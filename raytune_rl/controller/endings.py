"""How a report ends things: its member's episode, or, with a mistake of the user's, everything."""

from __future__ import annotations

from collections.abc import Iterable

from raytune_rl.records import Report


def ending(report: Report, *, segments: int | None, stopping: bool) -> str | None:
    """Why the member's episode ends with this report, if it does: ``failed``, ``done``, ``budget`` or ``stopped``.

    Args:
        report: of the segment that has just been trained.
        segments: length of a member's training; ``None`` = unknown.
        stopping: whether everything is being stopped.
    """
    if report.status != "ok":
        return "failed"
    if report.done:
        return "done"
    if over(report, segments=segments):
        return "budget"
    return "stopped" if stopping else None


def over(report: Report, *, segments: int | None) -> bool:
    """Whether this was the member's last segment."""
    return segments is not None and report.segment + 1 >= segments


def missing_metric(reports: Iterable[Report], metric: str) -> str | None:
    """What to tell a user whose candidate does not report ``metric``, which its first report shows and nothing before
    it; ``None`` where all is well."""
    for report in reports:
        if report.metrics and metric not in report.metrics and report.status in ("ok", "diverged"):
            known = ", ".join(sorted(report.metrics))
            return f"metric is {metric!r}, which the candidate does not report; it reports {known}."
    return None
