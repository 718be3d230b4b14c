"""Why a trial's actor ended, from Tune's own error files."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raytune_rl.tune import actor_errors

KILLED = "The actor died unexpectedly before finishing this task.\n\tclass_name: Host\n"
BROKEN = "The actor died because of an error raised in its creation task, ray::Host()\n  File x\nImportError: no y\n"
RAISED = "Traceback (most recent call last):\n  File x\nValueError: z\n"


def trial(folder: Path, story: str) -> Any:
    (folder / "error.txt").write_text(f"Failure # 1 (before)\nold\nFailure # 2 (now)\n{story}\n")
    return SimpleNamespace(error_file=str(folder / "error.txt"))


@pytest.mark.parametrize(
    ("story", "cause", "at_its_start"),
    [(KILLED, KILLED.splitlines()[0], False), (BROKEN, "ImportError: no y", True), (RAISED, "ValueError: z", False)],
)
def test_the_newest_failure_in_one_line(tmp_path: Path, story: str, cause: str, at_its_start: bool) -> None:
    assert actor_errors.cause(trial(tmp_path, story)) == cause
    assert actor_errors.failed_to_start(trial(tmp_path, story)) == at_its_start


def test_no_story_no_cause() -> None:
    unknown: Any = SimpleNamespace(error_file=None)
    assert actor_errors.cause(unknown) == "for an unknown reason" and not actor_errors.failed_to_start(unknown)
