from __future__ import annotations

from pathlib import Path

import pytest

from raytune_rl.controller.policies import PBT, Random
from tests.analysis.runs import write_run


@pytest.fixture(scope="session")
def directories(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two finished runs of the same experiment."""
    folder = tmp_path_factory.mktemp("runs")
    return [write_run(folder / "pbt", agent=PBT(), compare=True), write_run(folder / "random", agent=Random())]
