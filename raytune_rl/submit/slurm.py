"""Slurm: a batch script that starts a Ray cluster on the allocated nodes and runs the experiment on it."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from raytune_rl.cli.commands import DONE, FAILED
from raytune_rl.errors import BadInput
from raytune_rl.submit.job import Job, absolute, tool


@dataclass(frozen=True, slots=True, kw_only=True)
class Slurm:
    """A Slurm cluster; to be used on one of its login nodes.

    Args:
        nodes: number of nodes.
        cpus, gpus: per node; ``None`` leaves the CPUs to the cluster's default.
        memory: per node, as Slurm writes it (``64G``).
        options: further ``#SBATCH`` options, name to value (``time``, ``partition``, ``account`` ...).
        setup: shell lines that prepare each node's environment, such as ``module load python``.
        python: the interpreter on the nodes; by default this one, which must be on a shared file system then.
    """

    nodes: int = 1
    cpus: int | None = None
    gpus: int = 0
    memory: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    setup: tuple[str, ...] = ()
    python: str = sys.executable

    def preview(self, job: Job) -> str:
        header = {
            "job-name": job.ident,
            "nodes": str(self.nodes),
            "ntasks-per-node": "1",
            "output": f"{job.ident}-%j.log",
            "open-mode": "append",
            "signal": "B:TERM@120",
            **({"cpus-per-task": str(self.cpus)} if self.cpus is not None else {}),
            **({"gpus-per-node": str(self.gpus)} if self.gpus else {}),
            **({"mem": self.memory} if self.memory else {}),
            **self.options,
        }
        for name, value in header.items():
            if "\n" in value or not name.replace("-", "").isalnum():
                raise BadInput(f"--sbatch {name}={value!r}: the name is letters and dashes, the value one line.")
        return _template().render(
            header=header,
            name=job.name,
            folder=shlex.quote(str(job.file.parent)),
            file=shlex.quote(job.file.name),
            out=shlex.quote(absolute(job.directory)),
            options=shlex.join(job.options),
            python=shlex.quote(self.python),
            setup=self.setup,
        )

    def submit(self, job: Job) -> int:
        script = self.preview(job)
        command = [tool("sbatch", "it submits jobs to Slurm")]
        completed = subprocess.run(command, input=script, text=True, capture_output=True)
        submitted = completed.returncode == 0
        print((completed.stdout or completed.stderr).strip(), file=sys.stdout if submitted else sys.stderr)
        if submitted:
            print(f"run directory {absolute(job.directory)}")
        return DONE if submitted else FAILED


@lru_cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("raytune_rl", "submit/templates"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # this is a shell script, not HTML; texts from users are quoted for the shell above
    )
    return environment.get_template("slurm.sh.j2")
