"""The job to submit, the same for all clusters, and the protocol of launchers."""

from __future__ import annotations

import re
import secrets
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from raytune_rl.errors import BadInput
from raytune_rl.rundir.plain import plain


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """An experiment file with the options of its run.

    Attributes:
        file: absolute path of the experiment file. Its folder is sent along.
        name: of the experiment.
        ident: identifies the submission; letters, digits and dashes, as Kubernetes requires.
        storage: where the run directory is created: a path as the user wrote it, or a URI.
        out: the run directory itself, if the user has chosen one.
        options: command-line options for ``raytune_rl.run``.
    """

    file: Path
    name: str
    ident: str
    storage: str
    out: str | None = None
    options: tuple[str, ...] = ()

    @property
    def remote(self) -> bool:
        """Whether the run directory is given by a URI (such as an object store), so that it can be reached from all
        machines."""
        return is_uri(self.directory)

    @property
    def directory(self) -> str:
        """The run directory."""
        return self.out or f"{self.storage.rstrip('/')}/{self.name}/{self.ident}"


class Launcher(Protocol):
    """A way to run a job on a cluster."""

    def preview(self, job: Job) -> str:
        """What would be submitted, as text without secrets. Raises ``BadInput`` if it cannot work."""
        ...

    def submit(self, job: Job) -> int:
        """Submit the job; returns the exit status. Raises ``BadInput`` if it cannot work."""
        ...


def make_ident(name: str) -> str:
    """A new identifier of a submission: the experiment's name, the time, and a random part."""
    word = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:30] or "run"
    return f"{word}-{time.strftime('%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def is_uri(path: str) -> bool:
    """Whether this is a URI (``s3://bucket/x``) and not a path (``results``)."""
    return "://" in path


def absolute(path: str) -> str:
    """A local path made absolute; a URI is returned as it is."""
    return path if is_uri(path) else str(Path(path).expanduser().resolve())


def place(path: str) -> str:
    """A storage path for use in manifests, scripts and logs.

    Raises:
        BadInput: it contains credentials.
    """
    if plain(path) != path:
        raise BadInput(
            f"storage_path {plain(path)} holds credentials, which must not get into scripts and logs; give them to the "
            "cluster's nodes in their environment instead."
        )
    return path.removeprefix("file://")


def tool(name: str, what_for: str) -> str:
    """The path of a program on this machine.

    Raises:
        BadInput: it is not installed.
    """
    path = shutil.which(name)
    if path is None:
        raise BadInput(f"{name} is not on this machine, and {what_for}; use --dry-run to see what would be submitted.")
    return path
