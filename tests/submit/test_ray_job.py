"""Ray Jobs against a real head on loopback, which wants a token."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from raytune_rl.errors import BadInput
from raytune_rl.submit.ray_job import copy_directory

FILE = Path(__file__).with_name("experiment.py")
ROOT = Path(__file__).parents[2]
pytest.importorskip("aiohttp")


@dataclass
class Head:
    address: str
    token: Path
    folder: Path

    def call(self, *arguments: str, token: bool = True) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "raytune_rl.submit", *arguments, "--address", self.address]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment["PYTHONPATH"] = str(ROOT)
        environment["HOME"] = str(self.folder)
        return subprocess.run(
            [*command, *(["--token-file", str(self.token)] if token else [])],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=200,
        )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    folder = tmp_path_factory.mktemp("head")
    (folder / FILE.name).write_text(FILE.read_text())
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=2"]
    command += [f"--port={free_port()}", "--dashboard-host=127.0.0.1", f"--dashboard-port={port}"]
    command += ["--node-ip-address=127.0.0.1", "--disable-usage-stats", "--include-dashboard=true"]
    # The job agent has a fixed port, which another Ray on this machine may hold.
    command += [f"--dashboard-agent-listen-port={free_port()}"]
    with (folder / "head.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    found = Head(address=f"http://127.0.0.1:{port}", token=token, folder=folder)
    try:
        wait_until_it_answers(found, process)
        yield found
    finally:
        process.terminate()
        process.wait(60)


def wait_until_it_answers(head: Head, process: subprocess.Popen[bytes]) -> None:
    request = urllib.request.Request(
        f"{head.address}/api/jobs/", headers={"Authorization": f"Bearer {head.token.read_text()}"}
    )
    end = time.monotonic() + 90
    while True:
        assert process.poll() is None and time.monotonic() < end, (head.folder / "head.log").read_text()
        try:
            with urllib.request.urlopen(request, timeout=5):
                return
        except (OSError, urllib.error.URLError):
            time.sleep(0.3)


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(280)
def test_a_job_is_submitted_followed_looked_at_and_fetched(head: Head, tmp_path: Path) -> None:
    done = head.call("experiment.py", "--to", "ray-job", "--seed", "5")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "validation_loss" in done.stdout, "the job's log was to be followed"
    assert head.token.read_text() not in done.stdout + done.stderr
    ident = done.stdout.split("submitted ")[1].split()[0]
    assert f"{ident}: SUCCEEDED" in head.call("--status", ident).stdout
    fetched = head.call("--fetch", ident, "--out", str(tmp_path / "fetched"))
    assert fetched.returncode == 0, fetched.stderr
    summary = json.loads((tmp_path / "fetched" / "summary.json").read_text())
    assert summary["counts"]["segments"] == 6
    assert json.loads((tmp_path / "fetched" / "experiment.json").read_text())["seed"] == 5
    assert head.call("--fetch", ident, "--out", str(tmp_path / "fetched")).returncode == 2, "not empty"

    failing = head.call("experiment.py", "--to", "ray-job", "--set", "resources=1", "--no-wait")
    assert failing.returncode == 2, "a mistake is found before anything is submitted"
    stranger = head.call("--status", ident, token=False)
    assert stranger.returncode == 2
    assert "wants its token" in stranger.stderr

    long = head.call("experiment.py", "--to", "ray-job", "--no-wait", "--set", "segments=100000")
    assert long.returncode == 0, long.stderr
    ident = long.stdout.split("submitted ")[1].split()[0]
    assert head.call("--stop", ident).returncode == 0
    end = time.monotonic() + 60
    while "STOPPED" not in (status := head.call("--status", ident).stdout):
        assert time.monotonic() < end, status
        time.sleep(0.5)


def test_a_directory_is_copied_through_its_uri(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "best").mkdir(parents=True)
    (source / "best" / "model").write_bytes(b"1")
    copy_directory(source.as_uri(), tmp_path / "target")
    assert (tmp_path / "target" / "best" / "model").read_bytes() == b"1"
    with pytest.raises(BadInput, match="does not exist"):
        copy_directory((tmp_path / "none").as_uri(), tmp_path / "other")
    with pytest.raises(BadInput, match="cannot be copied"):
        copy_directory("ftp://host/run", tmp_path / "third")
