"""Ray Jobs: runs the experiment on the head of an existing cluster, through Ray's job server.

The job's metadata contains its run directory, so ``status``, ``stop`` and ``fetch`` only need its id.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import raytune_rl
from raytune_rl.cli.commands import DONE, FAILED, INTERRUPTED
from raytune_rl.errors import BadInput, first_line
from raytune_rl.rundir.plain import plain
from raytune_rl.submit.job import Job, absolute, is_uri

OUT = "raytune_rl.out"
"""Key of the run directory in a job's metadata."""

AGENT_SECONDS = 60.0
"""How long to wait for the job agent of a head that has just started."""

EXCLUDED = ("results", ".venv", ".git", "__pycache__", "*.parquet")
"""Files in the experiment's folder that are not sent along."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RayJobs:
    """The job server of a Ray cluster.

    Args:
        address: of the dashboard, ``http://host:port``.
        pip: requirements that the cluster installs for the job.
        installed: whether raytune_rl is installed on the cluster; otherwise this installation is sent along.
        python: the interpreter on the head; default: ``python`` from its PATH, or this interpreter if the head is this
            machine.
        wait: whether to print the log until the job ends.
    """

    address: str
    pip: tuple[str, ...] = ()
    installed: bool = False
    python: str | None = None
    wait: bool = True

    def preview(self, job: Job) -> str:
        return json.dumps(plain({"address": self.address, **self._request(job)}), indent=2)

    def submit(self, job: Job) -> int:
        request = self._request(job)
        with self._readable_errors():
            client = self._client()
            _submit(client, request)
            print(f"submitted {job.ident} to {self.address}; run directory {request['metadata'][OUT]}", flush=True)
            return self._follow(client, job.ident) if self.wait else DONE

    def status(self, ident: str) -> int:
        """Print the status of a job."""
        with self._readable_errors():
            info = self._client().get_job_info(ident)
        print(f"{ident}: {info.status.value}")
        for line in (info.message, f"run directory {(info.metadata or {}).get(OUT, 'unknown')}"):
            if line:
                print(f"  {line}")
        return DONE

    def stop(self, ident: str) -> int:
        """Stop a job. Ray sends it SIGTERM, and SIGKILL three seconds later. It can be resumed from its last
        checkpoints."""
        with self._readable_errors():
            stopped = self._client().stop_job(ident)
        print(f"{ident}: {'is being stopped' if stopped else 'had ended already'}")
        return DONE

    def fetch(self, ident: str, target: Path) -> int:
        """Copy a job's run directory into ``target``.

        Raises:
            BadInput: the job was not submitted by this package, its run directory cannot be reached from this machine,
                or ``target`` is not empty.
        """
        with self._readable_errors():
            info = self._client().get_job_info(ident)
        source = (info.metadata or {}).get(OUT)
        if source is None:
            raise BadInput(f"--fetch {ident}: this job was not submitted by raytune_rl.")
        if not is_uri(source) and not Path(source).is_dir():
            raise BadInput(
                f"--fetch {ident}: its run directory {source} is a path on the cluster's head that this machine does "
                "not see; submit with a storage_path that both reach, such as s3://bucket/results or a shared folder."
            )
        copy_directory(source, target)
        print(f"{ident}: {source} is now in {target}")
        return DONE

    def _request(self, job: Job) -> dict[str, Any]:
        """The arguments of the SDK's ``submit_job``."""
        if not job.remote and not self._is_local and not Path(job.directory).is_absolute():
            raise BadInput(
                f"storage_path is {job.out or job.storage!r}, a path relative to the job's own folder, which the "
                "cluster throws away; give --out or storage_path a shared folder or a URI such as s3://bucket/results."
            )
        out = absolute(job.directory) if self._is_local else job.directory
        python = self.python or (sys.executable if self._is_local else "python")
        command = [python, "-m", "raytune_rl.run", job.file.name, "--address", "auto", "--out", out, *job.options]
        runtime_env: dict[str, Any] = {"working_dir": str(job.file.parent), "excludes": list(EXCLUDED)}
        if not self.installed:
            runtime_env["py_modules"] = [str(Path(raytune_rl.__file__).parent)]
        if self.pip:
            runtime_env["pip"] = list(self.pip)
        return {
            "entrypoint": shlex.join(command),
            "submission_id": job.ident,
            "runtime_env": runtime_env,
            "metadata": {"name": job.name, OUT: out},
        }

    @property
    def _is_local(self) -> bool:
        """Whether the head is this machine, so that paths have the same meaning there."""
        return (urlsplit(self.address).hostname or "") in ("127.0.0.1", "localhost", "::1")

    def _client(self) -> Any:
        try:
            import aiohttp  # noqa: F401
            from ray.job_submission import JobSubmissionClient
        except ImportError:
            raise BadInput(
                "Ray's job client is not installed; install it with: pip install 'raytune_rl[submit]'."
            ) from None
        return JobSubmissionClient(self.address)

    @contextmanager
    def _readable_errors(self) -> Iterator[None]:
        """Turn the SDK's errors for a wrong address, token or id into ``BadInput`` with one sentence."""
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError:
            raise BadInput(
                f"--address {self.address}: the cluster wants its token; give --token-file, or set RAY_AUTH_TOKEN or "
                "RAY_AUTH_TOKEN_PATH."
            ) from None
        except ConnectionError as error:
            raise BadInput(f"--address {self.address}: no Ray dashboard answers there ({first_line(error)}).") from None
        except RuntimeError as error:
            raise BadInput(f"{self.address} refuses: {first_line(error)}") from None

    def _follow(self, client: Any, ident: str) -> int:
        """Print the log until the job ends. Returns the job's exit status."""
        try:
            asyncio.run(_print_log(client, ident))
        except KeyboardInterrupt:
            command = f"python -m raytune_rl.submit --address {self.address} --stop {ident}"
            print(f"\nthe job goes on; stop it with:\n  {command}", file=sys.stderr)
            return INTERRUPTED
        info = client.get_job_info(ident)
        match info.status.value:
            case "SUCCEEDED":
                return DONE
            case "STOPPED":
                return INTERRUPTED
        print(f"error: {ident}: {info.message}", file=sys.stderr)
        return info.driver_exit_code or FAILED


def use_token(file: str | None) -> None:
    """Make Ray authenticate with the token in ``file``, or as its variables ``RAY_AUTH_TOKEN`` and
    ``RAY_AUTH_TOKEN_PATH`` say. To be called before Ray is imported, as Ray reads them then. This program never reads
    the token.

    Raises:
        BadInput: there is no such file.
    """
    if file is not None:
        if not Path(file).is_file():
            raise BadInput(f"--token-file {file}: there is no such file.")
        os.environ.pop("RAY_AUTH_TOKEN", None)
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(Path(file).resolve())
    if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def _submit(client: Any, request: dict[str, Any]) -> None:
    """Submit a job, with retries: the job agent of a new head starts some seconds after its dashboard."""
    deadline = time.monotonic() + AGENT_SECONDS
    while True:
        try:
            client.submit_job(**request)
            return
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(0.5)


async def _print_log(client: Any, ident: str) -> None:
    async for text in client.tail_job_logs(ident):
        print(text, end="", flush=True)


def copy_directory(source: str, target: Path) -> None:
    """Copy a directory from any storage that ``pyarrow.fs`` can read.

    Raises:
        BadInput: there is no such directory, it cannot be copied, or ``target`` is not empty.
    """
    from pyarrow import fs

    if target.exists() and any(target.iterdir()):
        raise BadInput(f"--out {target} is not empty; give a new directory.")
    local = fs.LocalFileSystem()
    try:
        filesystem, path = fs.FileSystem.from_uri(source) if is_uri(source) else (local, source)
        if filesystem.get_file_info(path).type != fs.FileType.Directory:
            raise BadInput(f"{source} does not exist (yet).")
        target.mkdir(parents=True, exist_ok=True)
        fs.copy_files(path, str(target.resolve()), source_filesystem=filesystem, destination_filesystem=local)
    except BadInput:
        raise
    except (OSError, ValueError) as error:
        raise BadInput(f"{source} cannot be copied: {first_line(error)}") from None
