"""The content of ``experiment.json``: the experiment, and the versions and hardware that it ran on.

Versions are read from the packages' metadata without importing them, which takes milliseconds. Environment variables,
user names and host names are not recorded.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("raytune_rl", "ray", "torch", "numpy", "pandas", "pyarrow", "gymnasium")


def describe_environment() -> dict[str, Any]:
    """Versions and hardware of this machine: ``{"versions": {...}, "hardware": {...}}``.

    ``hardware`` has ``platform``, ``cpu`` (the model), ``cores`` (those that this process may use), ``memory_gib`` and
    ``gpus`` (an entry ``{"name", "memory_mib"}`` per device; empty without a driver).
    """
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "hardware": {
            "platform": f"{platform.system()} {platform.machine()}",
            "cpu": _cpu_model(),
            "cores": _cores(),
            "memory_gib": _memory_gib(),
            "gpus": _gpus(),
        },
    }


def describe_experiment(*, name: str, experiment: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Content of ``experiment.json``.

    Args:
        name: the experiment's name.
        experiment: its resolved fields; any values that ``plain`` takes.
        seed: the seed that was used, given or drawn.
    """
    return {"name": name, "seed": seed, "experiment": dict(experiment), **describe_environment()}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError):
        return None


def _gpus() -> list[dict[str, Any]]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    command = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = (line.rsplit(",", 1) for line in output.splitlines() if "," in line)
    return [{"name": name.strip(), "memory_mib": _number(memory)} for name, memory in rows]


def _number(text: str) -> int | None:
    return int(text) if text.strip().isdigit() else None
