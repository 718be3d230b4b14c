"""The one error that is the user's to mend, and how every command line answers it."""

from __future__ import annotations

import sys
from collections.abc import Callable

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
"""Exit statuses."""


class BadInput(ValueError):
    """Something that a user wrote cannot work: one sentence with the name, the value and what would be right.

    Command lines print it without a traceback and exit with 2.
    """


def answered(command: Callable[[], int]) -> int:
    """The exit status of a command line: what ``command`` returns, or 2 with the sentence of its ``BadInput``."""
    try:
        return command()
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT


def first_line(error: BaseException) -> str:
    """What an error says first; its type's name if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
