"""``python -m raytune_rl.submit exp.py --to ray-job|slurm|kuberay``: run an experiment file on a cluster."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from raytune_rl.cli import commands
from raytune_rl.cli.commands import DONE, answered
from raytune_rl.errors import BadInput
from raytune_rl.runs.cluster import quiet_environment
from raytune_rl.submit.job import Job, Launcher, make_ident, place
from raytune_rl.submit.ray_job import RayJobs, use_token

EXAMPLES = """\
examples:
  python -m raytune_rl.submit exp.py --to ray-job --address http://127.0.0.1:8265 --token-file ~/.ray/auth_token
  python -m raytune_rl.submit --status quickstart-1124-101500-3f2a
  python -m raytune_rl.submit --fetch quickstart-1124-101500-3f2a --out results/fetched
  python -m raytune_rl.submit exp.py --to slurm --nodes 4 --gpus 2 --sbatch time=08:00:00 --sbatch partition=gpu
  python -m raytune_rl.submit exp.py --to kuberay --image me/raytune_rl:1 --nodes 2 --gpus 1 --dry-run

exit status: 0 done, 1 the job failed, 2 bad input, 130 interrupted (the job goes on)
"""

ADDRESS = "http://127.0.0.1:8265"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    quiet_environment()
    return answered(lambda: _run(options))


def _parser() -> argparse.ArgumentParser:
    parser = commands.parser(
        "submit",
        description="Run an experiment file on a cluster, and look after it there.",
        examples=EXAMPLES,
    )
    parser.add_argument("experiment_file", metavar="exp.py", nargs="?", help="a Python file with an Experiment")
    parser.add_argument("--to", choices=("ray-job", "slurm", "kuberay"), help="where to")
    parser.add_argument("--dry-run", action="store_true", help="print what would be submitted")

    run = parser.add_argument_group("the run")
    run.add_argument("--experiment", metavar="NAME", help="which Experiment, where the file has several")
    run.add_argument("--out", metavar="DIR", help="the run directory; with --fetch, where to copy it to")
    run.add_argument("--seed", type=int, metavar="N", help="instead of the experiment's seed")
    run.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", dest="overrides", help="change a scalar field"
    )
    run.add_argument("--python", metavar="PATH", help="the interpreter there (python; for Slurm this one)")

    jobs = parser.add_argument_group("Ray Jobs")
    default = os.environ.get("RAY_API_SERVER_ADDRESS", ADDRESS)
    jobs.add_argument("--address", metavar="URL", default=default, help=f"of the cluster's dashboard ({default})")
    jobs.add_argument("--token-file", metavar="FILE", help="holds the cluster's token (default: Ray's RAY_AUTH_TOKEN)")
    jobs.add_argument("--pip", action="append", default=[], metavar="REQUIREMENT", help="to install for the job")
    jobs.add_argument("--installed", action="store_true", help="raytune_rl is installed there: do not send this one")
    jobs.add_argument("--no-wait", action="store_true", help="do not follow the log")
    jobs.add_argument("--status", metavar="ID", help="how a job is doing")
    jobs.add_argument("--stop", metavar="ID", help="stop a job")
    jobs.add_argument("--fetch", metavar="ID", help="copy a job's run directory to --out")

    size = parser.add_argument_group("size (Slurm: of the allocation; KubeRay: of the worker group)")
    size.add_argument("--nodes", type=_positive, default=1, metavar="N", help="nodes, or worker pods (1)")
    size.add_argument("--cpus", type=_positive, metavar="N", help="CPUs of each")
    size.add_argument("--gpus", type=int, default=0, metavar="N", help="GPUs of each (0)")
    size.add_argument("--memory", metavar="SIZE", help="memory of each, as the cluster writes it (64G, 16Gi)")

    slurm = parser.add_argument_group("Slurm")
    slurm.add_argument("--sbatch", action="append", default=[], metavar="OPTION=VALUE", help="any option of sbatch")
    slurm.add_argument("--setup", action="append", default=[], metavar="LINE", help="shell line, such as module load")

    kuberay = parser.add_argument_group("KubeRay")
    kuberay.add_argument("--image", metavar="IMAGE", help="container image with Ray and raytune_rl")
    kuberay.add_argument("--namespace", metavar="NAME", help="of the manifest (default: kubectl's own)")
    kuberay.add_argument("--token-secret", metavar="NAME", help="Secret with the token (default: KubeRay makes one)")
    kuberay.add_argument("--volume-claim", metavar="NAME", help="PersistentVolumeClaim for run directories")
    return parser


def _run(options: argparse.Namespace) -> int:
    use_token(options.token_file)
    jobs = RayJobs(
        address=options.address,
        pip=tuple(options.pip),
        installed=options.installed,
        python=options.python,
        wait=not options.no_wait,
    )
    if options.status:
        return jobs.status(options.status)
    if options.stop:
        return jobs.stop(options.stop)
    if options.fetch:
        if not options.out:
            raise BadInput("--fetch needs --out DIR, a new directory to copy the run into.")
        return jobs.fetch(options.fetch, Path(options.out))
    if options.experiment_file is None:
        raise BadInput("give an experiment file, or one of --status, --stop and --fetch.")
    launcher = _launcher(options, jobs)
    job = _job(options)
    if options.dry_run:
        print(launcher.preview(job))
        return DONE
    return launcher.submit(job)


def _launcher(options: argparse.Namespace, jobs: RayJobs) -> Launcher:
    match options.to:
        case "ray-job":
            return jobs
        case "slurm":
            from raytune_rl.submit.slurm import Slurm

            return Slurm(
                nodes=options.nodes,
                cpus=options.cpus,
                gpus=options.gpus,
                memory=options.memory,
                options=dict(_pair(text) for text in options.sbatch),
                setup=tuple(options.setup),
                python=options.python or sys.executable,
            )
        case "kuberay":
            from raytune_rl.submit.kuberay import KubeRay

            if not options.image:
                raise BadInput("--to kuberay needs --image, a container image with Ray and raytune_rl.")
            return KubeRay(
                image=options.image,
                namespace=options.namespace,
                nodes=options.nodes,
                cpus=options.cpus or 4,
                gpus=options.gpus,
                memory=options.memory or "16Gi",
                python=options.python or "python",
                token_secret=options.token_secret,
                volume_claim=options.volume_claim,
            )
    raise BadInput("--to is missing; it must be ray-job, slurm or kuberay.")


def _job(options: argparse.Namespace) -> Job:
    """The job of a command line. Makes the same checks as ``run`` on the cluster, so that mistakes show at once, and
    not after waiting in a queue."""
    from raytune_rl.cli.experiment_file import load_experiment
    from raytune_rl.cli.overrides import apply_overrides

    experiment = load_experiment(options.experiment_file, options.experiment)
    experiment = apply_overrides(experiment, options.overrides)
    run_options: list[str] = []
    if options.experiment:
        run_options += ["--experiment", options.experiment]
    if options.seed is not None:
        experiment = replace(experiment, seed=options.seed)
        run_options += ["--seed", str(options.seed)]
    for override in options.overrides:
        run_options += ["--set", override]
    return Job(
        file=Path(options.experiment_file).resolve(),
        name=experiment.name,
        ident=make_ident(experiment.name),
        storage=place(experiment.storage_path),
        out=None if options.out is None else place(options.out),
        options=tuple(run_options),
    )


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise BadInput(f"--sbatch {text!r} has no '='; write it as time=08:00:00.")
    return name.lstrip("-"), value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
