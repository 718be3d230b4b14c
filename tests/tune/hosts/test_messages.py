"""What a trial's result tells the driver."""

from __future__ import annotations

import logging

from raytune_rl.records import Report
from raytune_rl.tune.hosts.messages import Reports, WarningBuffer


def test_reports_are_short_where_tune_prints_them() -> None:
    report = Report(member=0, segment=0, steps=1, metrics={})
    assert repr(Reports([report, report])) == "<2 reports>"


def test_warnings_are_taken_once_and_a_flood_is_cut_off() -> None:
    buffer, logger = WarningBuffer(), logging.getLogger("tests.flood")
    logger.addHandler(buffer)
    logger.propagate = False
    logger.info("not a warning")
    for number in range(WarningBuffer.LIMIT + 5):
        logger.warning("number %d", number)
    assert buffer.take() == [f"number {n}" for n in range(WarningBuffer.LIMIT)]
    assert buffer.take() == []
