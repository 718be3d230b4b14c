"""``python -m raytune_rl.meta_train --out DIR``: train a controller in packed worlds, before its first real task."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from raytune_rl.cli import commands
from raytune_rl.cli.commands import DONE, INTERRUPTED, answered
from raytune_rl.errors import BadInput

EXAMPLES = """\
examples:
  python -m raytune_rl.meta_train --out results/meta --minutes 60
  python -m raytune_rl.meta_train --out results/meta --minutes 120            # goes on for another hour
  python -m raytune_rl.meta_train --out results/mine --from-runs results/digits/*   # the shipped one and your runs
  python -m raytune_rl.meta_train --out results/gpu --set num_gpus_per_env_runner=0.3 --set runners=3 --set pack=256
  python -m raytune_rl.meta_train --out results/other --set lineage=False --set clone_kl=0.1 --seed 3

What comes out: DIR/best (the best by meta-validation: agent=Pretrained("DIR/best")), DIR/last, DIR/log.jsonl (the
curve), DIR/algorithm (RLlib's own checkpoint, to go on from).

exit status: 0 done, 2 bad input, 130 interrupted (the command to go on is printed)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    return answered(lambda: _train(options))


def _parser() -> argparse.ArgumentParser:
    parser = commands.parser(
        "meta_train",
        description="Train a controller with RLlib in packed worlds: generated tasks, populations in one program.",
        examples=EXAMPLES,
    )
    parser.add_argument("--out", metavar="DIR", required=True, help="where it is kept; an earlier one there goes on")
    parser.add_argument("--minutes", type=float, default=60.0, help="training time, earlier sessions' included")
    parser.add_argument("--seed", type=int, help="of worlds, weights and decisions")
    parser.add_argument(
        "--from-runs",
        metavar="DIR",
        nargs="+",
        default=[],
        help="finished run directories: begin with the shipped controller and imitate what went well in them",
    )
    parser.add_argument("--set", metavar="FIELD=VALUE", action="append", default=[], help="change the recipe")
    return parser


def _train(options: argparse.Namespace) -> int:
    from raytune_rl.cli.overrides import apply_overrides
    from raytune_rl.meta.from_runs import read_run
    from raytune_rl.meta.recipe import Recipe, kept_recipe
    from raytune_rl.runs.cluster import ray_cluster
    from raytune_rl.signals import stopping_on_signals

    if not options.minutes > 0:
        raise BadInput(f"--minutes is {options.minutes:g}; it must be above 0.")
    directory = Path(options.out)
    changes = list(options.set) + ([] if options.seed is None else [f"seed={options.seed}"])
    earlier = kept_recipe(directory)
    recipe = apply_overrides(earlier or Recipe(), changes)
    if options.from_runs:
        recipe = replace(recipe, runs=tuple(str(Path(run).resolve()) for run in options.from_runs))
    if earlier is not None and recipe != earlier:
        raise BadInput(f"--out {directory} holds a meta-training by another recipe; name another directory.")
    _check_gpus(recipe.num_gpus_per_env_runner, recipe.runners)
    _check_tables(recipe.tables)
    for run in recipe.runs if earlier is None else ():
        read_run(run)  # raises for runs that do not fit, before Ray starts
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--out {directory} cannot be made: {error.strerror or error}.") from None
    with ray_cluster(None), stopping_on_signals() as stoppable:  # in this order, as Ray replaces signal handlers
        from raytune_rl.meta.session import Session

        session = Session(directory, recipe, say=lambda line: print(line, flush=True))
        try:
            finished = session.run(minutes=options.minutes, stoppable=stoppable)
        except KeyboardInterrupt:
            finished = False
    if not finished:
        command = f"python -m raytune_rl.meta_train --out {shlex.quote(options.out)} --minutes {options.minutes:g}"
        print(f"interrupted; go on with: {command}", file=sys.stderr)
        return INTERRUPTED
    print(f"controller: {directory / 'best'}")
    return DONE


def _check_tables(share: float) -> None:
    """Raise ``BadInput`` if packages of tables are missing, for which every EnvRunner would fail with a traceback."""
    from raytune_rl.worlds.real import packaged

    try:
        for package in ("pydataset", "aeon") if share else ():
            packaged(package)
    except ModuleNotFoundError as error:
        raise BadInput(f"tables is {share:g}: {error}") from None


def _check_gpus(share: float, runners: int) -> None:
    """Raise ``BadInput`` if there are too few GPUs: Ray would wait for them forever."""
    from raytune_rl.rundir.environment import describe_environment
    from raytune_rl.runs.placement import slots

    have = len(describe_environment()["hardware"]["gpus"]) if share else 0
    if share and (fit := slots({"GPU": share}, {"GPU": have})) < runners:
        raise BadInput(
            f"num_gpus_per_env_runner is {share:g} for {runners} runners; this machine has {have} GPU, where {fit} fit."
        )


if __name__ == "__main__":
    sys.exit(main())
