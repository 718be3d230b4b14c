"""The manners that all command lines share: their exit statuses, and how they present themselves and answer."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from raytune_rl._version import __version__
from raytune_rl.errors import BadInput

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
"""Exit statuses."""


def parser(module: str, *, description: str, examples: str) -> argparse.ArgumentParser:
    """A parser for ``python -m raytune_rl.<module>`` with ``--version``; ``examples`` stand below its ``--help``."""
    found = argparse.ArgumentParser(
        prog=f"python -m raytune_rl.{module}",
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("--version", action="version", version=f"raytune_rl {__version__}")
    return found


def answered(command: Callable[[], int]) -> int:
    """The exit status of a command line: what ``command`` returns, or 2 with the sentence of its ``BadInput``."""
    try:
        return command()
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
