"""Why a trial's actor ended, in one line, from the file where Tune keeps the trial's errors."""

from __future__ import annotations

from pathlib import Path

from ray.tune.experiment import Trial

_IN_CREATION = "The actor died because of an error raised in its creation task"


def cause(trial: Trial) -> str:
    """The reason of the newest failure: the first line of a message about a dead actor, the last one of a traceback."""
    lines = _newest_failure(trial)
    if not lines:
        return "for an unknown reason"
    return lines[0] if lines[0].startswith("The actor died") and not failed_to_start(trial) else lines[-1]


def failed_to_start(trial: Trial) -> bool:
    """Whether the actor raised an exception while it was created, before anything could be called."""
    return any(line.startswith(_IN_CREATION) for line in _newest_failure(trial)[:1])


def _newest_failure(trial: Trial) -> list[str]:
    try:
        text = Path(trial.error_file).read_text().rpartition("Failure #")[2]
    except (OSError, TypeError):
        return []
    return [line.strip() for line in text.splitlines()[1:] if line.strip()]
