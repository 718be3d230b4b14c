"""What a trial's result tells the driver, beside Tune's own entries."""

from __future__ import annotations

import logging

from raytune_rl.records import Report

REPORTS = "reports"
"""Key of a result: the members' ``Reports``."""
MISSING_METRIC = "missing_metric"
"""Key of a result: the metrics that there are, where the one that counts is not among them."""
UNPACKED = "unpacked"
"""Key of a result: why members of the trial train one by one. Each reason is sent once."""
WARNINGS = "logged_warnings"
"""Key of a result: warnings logged in the trial's process."""


class Reports(list[Report]):
    """A list of reports with a short repr, because Tune formats every result into two debug messages."""

    def __repr__(self) -> str:
        return f"<{len(self)} reports>"


class WarningBuffer(logging.Handler):
    """Collects the warnings of a trial's process for its next result: only the driver writes the run's log."""

    LIMIT = 20
    """Messages between two results; further ones are dropped."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if len(self._messages) < self.LIMIT:
            self._messages.append(record.getMessage())

    def take(self) -> list[str]:
        """The messages since the last call."""
        messages, self._messages = self._messages, []
        return messages
