from __future__ import annotations

import json
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from raytune_rl.rundir.environment import describe_environment, describe_experiment


def test_versions_and_hardware() -> None:
    found = describe_environment()
    assert found["versions"]["python"] == platform.python_version()
    assert found["versions"]["numpy"] == metadata.version("numpy")
    assert {"ray", "torch", "raytune_rl"} <= set(found["versions"])
    assert found["hardware"]["cores"] >= 1
    assert found["hardware"]["memory_gib"] > 0


def test_no_environment_variable_lands_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do-not-tell")
    assert "do-not-tell" not in json.dumps(describe_experiment(name="n", experiment={}, seed=1))


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An ``nvidia-smi`` of our own, the only one on the path."""
    monkeypatch.setenv("PATH", str(tmp_path))
    tool = tmp_path / "nvidia-smi"
    tool.touch(mode=0o755)
    return tool


def test_gpus_are_listed(driver: Path) -> None:
    driver.write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 81559'\necho 'Other, [N/A]'\n")
    expected = [{"name": "NVIDIA H100 80GB HBM3", "memory_mib": 81559}, {"name": "Other", "memory_mib": None}]
    assert describe_environment()["hardware"]["gpus"] == expected


@pytest.mark.parametrize("script", ["#!/bin/sh\nexit 9\n", "not executable at all", ""])
def test_a_broken_driver_is_no_gpu(driver: Path, script: str) -> None:
    driver.write_text(script)
    assert describe_environment()["hardware"]["gpus"] == []


def test_a_hanging_driver_is_no_gpu(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("nvidia-smi", 10)

    monkeypatch.setattr(subprocess, "run", hang)
    assert describe_environment()["hardware"]["gpus"] == []
