"""The one error that is the user's to mend."""

from __future__ import annotations


class BadInput(ValueError):
    """Something that a user wrote cannot work: one sentence with the name, the value and what would be right.

    Command lines print it without a traceback and exit with 2.
    """
