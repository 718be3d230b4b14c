"""``BadInput``, and tracebacks reduced to the user's own frames."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

OWN_FILES = str(Path(__file__).parent) + os.sep
"""What the files of this package begin with."""
_OWN_FRAMES = (OWN_FILES, os.sep + os.path.join("ray", "tune") + os.sep)


class BadInput(ValueError):
    """Something that a user wrote cannot work: one sentence with the name, the value and what would be right.

    Command lines print it without a traceback and exit with 2 (``commands.answered``).
    """


def first_line(error: BaseException) -> str:
    """What an error says first; its type's name if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def user_traceback(error: BaseException) -> str:
    """The traceback without the frames of this package and of Tune, which tell a user nothing; with them where there
    are no others, neither its own nor of what caused it."""
    summary = traceback.TracebackException.from_exception(error)
    chain = [summary]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    theirs = [[f for f in one.stack if not any(own in f.filename for own in _OWN_FRAMES)] for one in chain]
    if any(theirs):
        for one, frames in zip(chain, theirs, strict=True):
            one.stack = traceback.StackSummary.from_list(frames)
    return "".join(summary.format())
