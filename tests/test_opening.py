"""Runs that are gone on with: by the experiment that they were of, and by later versions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from raytune_rl import BadInput
from raytune_rl.opening import begin, opened
from raytune_rl.rundir.layout import RunDirectory
from tests.blobs_experiment import make


def test_what_an_older_version_did_not_know_had_its_default(tmp_path: Path) -> None:
    experiment = make(ensemble=None)
    begin(RunDirectory(tmp_path / "run"), experiment)
    file = tmp_path / "run" / "experiment.json"
    content = json.loads(file.read_text())
    del content["experiment"]["refit"]
    file.write_text(json.dumps(content))
    opened(RunDirectory(tmp_path / "run"), experiment)
    with pytest.raises(BadInput, match="refit is None there and True here"):
        opened(RunDirectory(tmp_path / "run"), replace(experiment, refit=True))
