"""The Ray that a run uses: its own, started here and gone afterwards, or a cluster that somebody else looks after."""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from raytune_rl.errors import BadInput

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
"""How long a given address may take to be reached."""


def quiet_environment() -> None:
    """Settings that Ray reads when it is imported or started: no telemetry, no console noise, no second SIGINT handler.

    What the user has set already is left alone, but for telemetry, which this package never sends.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    for name, value in {
        "RAY_DEDUP_LOGS": "0",
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        # Tune starts trials in environments of their own: workers that Ray starts ahead would only take time.
        "RAY_prestart_worker_first_driver": "0",
    }.items():
        os.environ.setdefault(name, value)


@contextmanager
def ray_cluster(address: str | None, *, working_dir: str | None = None) -> Iterator[list[Mapping[str, float]]]:
    """Connect to ``address``, or start a local Ray without a dashboard and with token authentication.

    Yields what each node has, by Ray's names. A Ray that was started here is shut down at the end, one that was there
    before (the caller's own ``ray.init`` included) is left running.

    Raises:
        BadInput: nothing answers at ``address``.
    """
    quiet_environment()
    import ray

    for name in ("ray", "ray.rllib", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if ray.is_initialized():
        yield node_resources()
        return
    if address is None:
        _authenticate()
        ray.init(address="local", include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    else:
        runtime_env = {"working_dir": working_dir} if working_dir and not _shipped() else None
        try:
            ray.init(address=address, runtime_env=runtime_env, logging_level=logging.ERROR, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise BadInput(f"--address {address}: no Ray cluster answers there ({error}).") from None
    try:
        yield node_resources()
    finally:
        ray.shutdown()


def ray_is_running() -> bool:
    """Whether this process has a Ray already. It is not imported for the question."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def check_address(address: str) -> None:
    """Raise ``BadInput`` where nobody listens: Ray would try for many minutes. Where ``auto`` is, only Ray knows."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise BadInput(f"--address {address}: no Ray cluster answers there ({error}).") from None


def _shipped() -> bool:
    """Whether this process is a Ray job whose folder has been sent along already; a job cannot have two."""
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    return "working_dir" in (job.get("runtime_env") or {})


def node_resources() -> list[Mapping[str, float]]:
    """The resources of each node that is alive."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _authenticate() -> None:
    """Give the embedded Ray a token of its own: its ports listen on all interfaces, so they must not serve strangers.

    Ray 2.60 turns token authentication on by itself for a cluster that ``ray.init`` starts (unless the user has set
    ``RAY_AUTH_MODE``); a token in the environment keeps it from leaving one in the home directory.
    """
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
