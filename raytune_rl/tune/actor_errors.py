"""What ended a trial's actor, in one line, from the file that Tune keeps its errors in."""

from __future__ import annotations

from pathlib import Path

from ray.tune.experiment import Trial

_AT_ITS_START = "The actor died because of an error raised in its creation task"


def cause(trial: Trial) -> str:
    """The newest failure. A dead actor's story begins with what happened, a traceback ends with it."""
    story = _story(trial)
    if not story:
        return "for an unknown reason"
    return story[0] if story[0].startswith("The actor died") and not failed_to_start(trial) else story[-1]


def failed_to_start(trial: Trial) -> bool:
    """Whether that was an exception before the actor could be called at all."""
    return any(line.startswith(_AT_ITS_START) for line in _story(trial)[:1])


def _story(trial: Trial) -> list[str]:
    try:
        text = Path(trial.error_file).read_text().rpartition("Failure #")[2]
    except (OSError, TypeError):
        return []
    return [line.strip() for line in text.splitlines()[1:] if line.strip()]
