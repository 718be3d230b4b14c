"""``python -m raytune_rl.report DIR [DIR ...]``: writes the page of a run, or one that compares several runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from raytune_rl.cli import commands
from raytune_rl.cli.commands import DONE, FAILED, answered
from raytune_rl.errors import BadInput

EXAMPLES = """\
examples:
  python -m raytune_rl.report results/quickstart/2026-11-24_12-00-00
  python -m raytune_rl.report results/ppo results/dqn --out comparison.html

exit status: 0 done, 1 the page could not be written, 2 bad input
"""

COMPARISON = "comparison.html"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    return answered(lambda: _report(options.directories, options.out))


def _parser() -> argparse.ArgumentParser:
    parser = commands.parser(
        "report",
        description="Write one self-contained HTML page about a run, or several side by side; prints its path.",
        examples=EXAMPLES,
    )
    parser.add_argument("directories", metavar="DIR", nargs="+", help="run directories, finished or running")
    parser.add_argument(
        "--out", metavar="FILE", help=f"the page (default: DIR/report.html; {COMPARISON} here for several runs)"
    )
    return parser


def _report(directories: Sequence[str], out: str | None) -> int:
    try:
        print(_write(directories, out))
    except OSError as error:
        print(f"error: the page could not be written: {error}", file=sys.stderr)
        return FAILED
    return DONE


def _write(directories: Sequence[str], out: str | None) -> str:
    """Make the page and write it; returns its path or URI.

    Raises:
        BadInput: a directory holds no run or one that this version cannot read, or the runs cannot be compared.
        OSError: the page cannot be written.
    """
    from raytune_rl.analysis.page import page
    from raytune_rl.analysis.run import Run
    from raytune_rl.rundir.layout import REPORT, RunDirectory

    runs = []
    for directory in directories:
        try:
            runs.append(Run.load(directory))
        except (OSError, ValueError) as error:
            raise BadInput(str(error)) from None
    content = page(runs).encode()
    if out is None and len(runs) == 1:
        directory_of_run = RunDirectory(directories[0])
        directory_of_run.write_bytes(REPORT, content)
        return directory_of_run.uri(REPORT)
    target = Path(out or COMPARISON)
    target.write_bytes(content)
    return str(target)


if __name__ == "__main__":
    sys.exit(main())
