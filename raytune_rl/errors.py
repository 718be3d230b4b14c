"""The one error that is the user's to mend."""

from __future__ import annotations


class BadInput(ValueError):
    """Something that a user wrote cannot work: one sentence with the name, the value and what would be right.

    Command lines print it without a traceback and exit with 2 (``commands.answered``).
    """


def first_line(error: BaseException) -> str:
    """What an error says first; its type's name if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
