from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from raytune_rl.cli.commands import BAD_INPUT, DONE, FAILED
from raytune_rl.report.__main__ import main
from tests.analysis.runs import edit_json


def report(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(
        [sys.executable, "-m", "raytune_rl.report", *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_one_run_gets_its_report(directories: list[Path], tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(directories[0], copy)
    done = report(copy, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (DONE, f"{copy}/report.html\n", "")
    assert "paper reached a loss of" in (copy / "report.html").read_text()


def test_several_runs_get_one_page(
    directories: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([str(d) for d in directories]) == DONE
    assert capsys.readouterr().out == "comparison.html\n"
    assert "2 runs compared" in Path("comparison.html").read_text()
    assert main([str(directories[0]), "--out", "one.html"]) == DONE
    assert "paper" in Path("one.html").read_text()
    assert not (directories[0] / "report.html").exists()


def test_what_cannot_be_read_is_one_sentence(
    directories: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newer = tmp_path / "newer"
    shutil.copytree(directories[0], newer)
    edit_json(newer / "experiment.json", schema_version=99)
    other = tmp_path / "other"
    shutil.copytree(directories[0], other)
    fields = json.loads((other / "experiment.json").read_text())["experiment"]
    edit_json(other / "experiment.json", experiment={**fields, "metric": "accuracy"})
    for arguments, message in (
        ([str(tmp_path / "nowhere")], "not a run directory"),
        ([str(newer)], "newer raytune_rl"),
        (["nonsense://x"], "nonsense://x"),
        ([str(directories[0]), str(other)], "same metric"),
    ):
        assert main(arguments) == BAD_INPUT
        captured = capsys.readouterr()
        assert captured.err.startswith("error: ") and message in captured.err
        assert captured.err.count("\n") == 1 and not captured.out


def test_a_page_that_cannot_be_written(
    directories: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(directories[0]), "--out", str(tmp_path / "no" / "folder.html")]) == FAILED
    assert "could not be written" in capsys.readouterr().err


def test_help_has_an_example_and_costs_nothing() -> None:
    program = (
        "import sys; from raytune_rl.report.__main__ import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    )
    program += "assert not {'pandas', 'matplotlib', 'ray', 'torch'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert "python -m raytune_rl.report results/" in done.stdout
