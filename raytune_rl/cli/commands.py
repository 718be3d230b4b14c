"""What all command lines share: exit statuses, the set-up of their parsers, and how they report errors."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from raytune_rl._version import __version__
from raytune_rl.errors import BadInput

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
"""Exit statuses."""


def parser(module: str, *, description: str, examples: str) -> argparse.ArgumentParser:
    """A parser for ``python -m raytune_rl.<module>`` with ``--version``; ``--help`` ends with the ``examples``."""
    new = argparse.ArgumentParser(
        prog=f"python -m raytune_rl.{module}",
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    new.add_argument("--version", action="version", version=f"raytune_rl {__version__}")
    return new


def answered(command: Callable[[], int]) -> int:
    """Run ``command`` and return its exit status. If it raises ``BadInput``, print the message and return 2."""
    try:
        return command()
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
