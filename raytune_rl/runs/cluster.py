"""The Ray that a run uses: a local one that lives as long as the run, or an existing cluster."""

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
"""Timeout for connecting to a given address."""


def quiet_environment() -> None:
    """Set the variables that Ray reads when it is imported or started: no telemetry, no console noise, no second SIGINT
    handler.

    Variables that the user has set are left alone, except for telemetry, which this package never sends.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    for name, value in {
        "RAY_DEDUP_LOGS": "0",
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        # Tune starts trials in runtime environments of their own, so workers started in advance would not be used
        "RAY_prestart_worker_first_driver": "0",
    }.items():
        os.environ.setdefault(name, value)


@contextmanager
def ray_cluster(address: str | None, *, working_dir: str | None = None) -> Iterator[list[Mapping[str, float]]]:
    """Connect to ``address``, or start a local Ray without a dashboard and with token authentication.

    Yields the resources of each node, by Ray's names. At the end, the connection is shut down, and with it a Ray that
    was started here. If the caller has called ``ray.init`` already, that Ray is used and left running.

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
        runtime_env = {"working_dir": working_dir} if working_dir and not _job_has_working_dir() else None
        try:
            ray.init(address=address, runtime_env=runtime_env, logging_level=logging.ERROR, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise BadInput(f"--address {address}: no Ray cluster answers there ({error}).") from None
    try:
        yield node_resources()
    finally:
        ray.shutdown()


def ray_is_running() -> bool:
    """Whether this process has initialised Ray already. Does not import it."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def check_address(address: str) -> None:
    """Raise ``BadInput`` if nothing listens at the address, as Ray would retry for many minutes. ``auto`` is not
    checked: only Ray can resolve it."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise BadInput(f"--address {address}: no Ray cluster answers there ({error}).") from None


def _job_has_working_dir() -> bool:
    """Whether this process is a Ray job that was submitted with a working directory; a job cannot have two."""
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    return "working_dir" in (job.get("runtime_env") or {})


def node_resources() -> list[Mapping[str, float]]:
    """The resources of each living node."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _authenticate() -> None:
    """Give the local Ray a token of its own: its ports listen on all interfaces, and must refuse strangers.

    Ray 2.60 turns token authentication on by itself for a cluster that ``ray.init`` starts (unless the user has set
    ``RAY_AUTH_MODE``); a token in the environment keeps it from leaving one in the home directory.
    """
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
