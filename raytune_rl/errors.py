"""``BadInput``, and tracebacks that show the user's frames only."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

OWN_FILES = str(Path(__file__).parent) + os.sep
"""Prefix of the paths of this package's files."""
_OWN_FRAMES = (OWN_FILES, os.sep + os.path.join("ray", "tune") + os.sep)


class BadInput(ValueError):
    """Something that a user wrote cannot work. The message is a sentence with the name, the value and what is allowed.

    Command lines print it without a traceback and exit with 2 (``commands.answered``).
    """


def first_line(error: BaseException) -> str:
    """The first line of an error's message; the name of its type if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def user_traceback(error: BaseException) -> str:
    """The traceback of an error and its causes without the frames of this package and of Tune, which do not help a
    user. If there are no other frames, the full traceback."""
    summary = traceback.TracebackException.from_exception(error)
    chain = [summary]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    users_frames = [[f for f in link.stack if not any(own in f.filename for own in _OWN_FRAMES)] for link in chain]
    if any(users_frames):
        for link, frames in zip(chain, users_frames, strict=True):
            link.stack = traceback.StackSummary.from_list(frames)
    return "".join(summary.format())
