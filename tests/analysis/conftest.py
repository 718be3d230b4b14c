"""A few run directories that the tests of this folder read and never change."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from raytune_rl.analysis import Run
from raytune_rl.controller.policies import PBT, Random
from tests.analysis.runs import Faults, write_run

FAULTS: Faults = {
    (1, 4): {"status": "failed", "metrics": {}},
    (2, 6): {"status": "diverged", "metrics": {"loss": math.nan}},
}


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight members, twelve segments, PBT's copies, two failures, random search beside it."""
    return write_run(tmp_path_factory.mktemp("runs") / "pbt", agent=PBT(), compare=True, faults=FAULTS)


@pytest.fixture(scope="session")
def run(directory: Path) -> Run:
    return Run.load(directory)


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same by an agent that acts at random, not finished."""
    return Run.load(write_run(tmp_path_factory.mktemp("runs") / "random", agent=Random(), finished=False))


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """More members than are drawn one by one."""
    return Run.load(write_run(tmp_path_factory.mktemp("runs") / "large", agent=PBT(), population=48, segments=8))
