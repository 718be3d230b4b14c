"""The command line, really: it trains through RLlib, goes on where it stopped, and what it leaves can steer a run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from raytune_rl.meta_train import main
from raytune_rl.pretrained import Pretrained
from raytune_rl.worlds.generator import META_VALIDATION

SMALL = ["clone_worlds=2", "worlds=1", "runners=1", "minibatch=64", "validate_every=1"]
SMALL += ["validation_worlds=1", "validation_populations=1"]


@pytest.mark.slow
@pytest.mark.cluster
def test_it_trains_goes_on_and_leaves_a_controller(tmp_path: Path) -> None:
    out = tmp_path / "meta"
    settings = [part for change in SMALL for part in ("--set", change)]
    command = [sys.executable, "-m", "raytune_rl.meta_train", "--out", str(out)]
    first = subprocess.run([*command, "--minutes", "0.05", *settings], capture_output=True, text=True, timeout=300)
    assert first.returncode == 0, first.stdout + first.stderr
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert rows[0]["transitions"] == 0 and rows[-1]["transitions"] > 0
    minutes = rows[-1]["minutes"] + 0.05
    second = subprocess.run([*command, "--minutes", str(minutes)], capture_output=True, text=True, timeout=300)
    assert second.returncode == 0, second.stdout + second.stderr
    later = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert later[: len(rows)] == rows and len(later) > len(rows)
    assert later[-1]["iteration"] > rows[-1]["iteration"] and later[-1]["transitions"] > rows[-1]["transitions"]
    controller = Pretrained(out / "last")
    assert controller.record["meta_validation"] == later[-1]
    assert all(np.isfinite(value).all() for value in controller.weights.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--minutes", "0"], "--minutes is 0"),
        (["--set", "wrong=1"], "no field 'wrong'"),
        (["--set", "worlds=0"], "worlds is 0; it must be at least 1"),
        (["--set", "validation_worlds=1000"], f"there are {len(META_VALIDATION)}"),
    ],
)
def test_bad_input(arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path / "x"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
