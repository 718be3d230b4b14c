"""What is to be run, wherever it is submitted to, and what a launcher has to be able to do."""

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
    """An experiment file with the options of the command line that belong to the run.

    Attributes:
        file: the experiment file, absolute. Its folder goes along.
        name: the experiment's.
        ident: names the submission; letters, digits and dashes, as Kubernetes wants it.
        storage: where the run directory is made: a path as it is written, or a URI.
        out: the run directory itself, where the user has chosen one.
        options: passed on to ``raytune_rl.run``.
    """

    file: Path
    name: str
    ident: str
    storage: str
    out: str | None = None
    options: tuple[str, ...] = ()

    @property
    def remote(self) -> bool:
        """Whether the run directory lies in an object store or the like, reachable from everywhere."""
        return is_uri(self.directory)

    @property
    def directory(self) -> str:
        """The run directory."""
        return self.out or f"{self.storage.rstrip('/')}/{self.name}/{self.ident}"


class Launcher(Protocol):
    """One way of getting a job onto a cluster."""

    def preview(self, job: Job) -> str:
        """What would be submitted, as text. Holds no secret. Raises ``BadInput`` for what cannot work."""
        ...

    def submit(self, job: Job) -> int:
        """Submit it; returns the exit status. Raises ``BadInput`` for what cannot work."""
        ...


def make_ident(name: str) -> str:
    """A new name for a submission: the experiment's, the time, and something random."""
    word = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:30] or "run"
    return f"{word}-{time.strftime('%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def is_uri(path: str) -> bool:
    """``s3://bucket/x`` is one, ``results`` is not."""
    return "://" in path


def absolute(path: str) -> str:
    """A local path made absolute from here; a URI as it is."""
    return path if is_uri(path) else str(Path(path).expanduser().resolve())


def place(path: str) -> str:
    """A storage path as it may stand in manifests, scripts and logs.

    Raises:
        BadInput: it holds credentials.
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
        BadInput: it is not here.
    """
    found = shutil.which(name)
    if found is None:
        raise BadInput(f"{name} is not on this machine, and {what_for}; use --dry-run to see what would be submitted.")
    return found
