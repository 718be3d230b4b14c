"""``python -m raytune_rl.run exp.py``: run an experiment file, or continue a run that was interrupted."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from raytune_rl.cli import commands
from raytune_rl.cli.commands import DONE, FAILED, INTERRUPTED, answered
from raytune_rl.runs.cluster import quiet_environment

EXAMPLES = """\
examples:
  python -m raytune_rl.run experiments/quickstart.py
  python -m raytune_rl.run exp.py --out results/first --seed 7
  python -m raytune_rl.run exp.py --set population=16 --set stop.seconds=600
  python -m raytune_rl.run exp.py --resume results/first
  python -m raytune_rl.run exp.py --address auto
  python -m raytune_rl.run exp.py --replay results/first

exit status: 0 done, 1 the run failed, 2 bad input, 130 interrupted (the resume command is printed)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    quiet_environment()  # before the experiment file imports Ray
    return answered(lambda: _run(options))


def _parser() -> argparse.ArgumentParser:
    parser = commands.parser(
        "run",
        description="Train the population of an experiment file while an RLlib agent steers it.",
        examples=EXAMPLES,
    )
    parser.add_argument("experiment_file", metavar="exp.py", help="a Python file with a module-level Experiment")
    parser.add_argument("--experiment", metavar="NAME", help="which Experiment, where the file has several")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--out", metavar="DIR", help="the run directory (default: <storage_path>/<name>/<time>)")
    where.add_argument("--resume", metavar="DIR", help="go on with the run in DIR; does nothing if it is finished")
    parser.add_argument(
        "--replay",
        metavar="RUN",
        help="train by the schedule of that run's best member, copies included, without agent",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="instead of the experiment's seed")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", dest="overrides", help="change a scalar field"
    )
    parser.add_argument("--address", metavar="ADDR", help="an existing Ray cluster (default: a local Ray of its own)")
    parser.add_argument("--quiet", action="store_true", help="print the summary only")
    parser.add_argument("-v", "--verbose", action="store_true", help="print the debug log too")
    return parser


def _run(options: argparse.Namespace) -> int:
    from rich.console import Console

    from raytune_rl.cli.experiment_file import load_experiment
    from raytune_rl.cli.overrides import apply_overrides
    from raytune_rl.progress import logging_to, make_progress
    from raytune_rl.runs.runner import RunFailed, run

    experiment = load_experiment(options.experiment_file, options.experiment)
    experiment = apply_overrides(experiment, options.overrides)
    if options.seed is not None:
        experiment = replace(experiment, seed=options.seed)
    if options.replay:
        from raytune_rl.analysis.replay import replayed

        experiment = replayed(experiment, options.replay)
    out = options.resume or options.out or _new_directory(experiment.storage_path, experiment.name)
    console = Console(highlight=False)
    try:
        with logging_to(console, quiet=options.quiet, verbose=options.verbose):
            outcome = run(
                experiment,
                out=out,
                resume=options.resume is not None,
                address=options.address,
                source=Path(options.experiment_file),
                progress=make_progress(quiet=options.quiet, console=console),
            )
    except RunFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        interrupted = True
    else:
        interrupted = outcome.interrupted
    if interrupted:
        print(f"interrupted; go on with:\n  {_resume_command(options, out)}", file=sys.stderr)
        return INTERRUPTED
    return DONE


def _new_directory(storage_path: str, name: str) -> str:
    return f"{storage_path.rstrip('/')}/{name}/{time.strftime('%Y-%m-%d_%H-%M-%S')}"


def _resume_command(options: argparse.Namespace, out: str) -> str:
    words = ["python", "-m", "raytune_rl.run", options.experiment_file, "--resume", out]
    if options.experiment:
        words += ["--experiment", options.experiment]
    if options.replay:
        words += ["--replay", options.replay]
    if options.seed is not None:
        words += ["--seed", str(options.seed)]
    for override in options.overrides:
        words += ["--set", override]
    if options.address:
        words += ["--address", options.address]
    return shlex.join(words)


if __name__ == "__main__":
    sys.exit(main())
