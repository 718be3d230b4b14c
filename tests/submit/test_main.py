"""The command line: previews, and mistakes that end before anything is submitted."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from raytune_rl.submit.__main__ import main

FILE = str(Path(__file__).with_name("experiment.py"))


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line tells Ray of the token by the environment, which later tests must not see."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "x")  # so that it is restored, whatever the test makes of it
        monkeypatch.delenv(name)


def preview(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main([FILE, "--dry-run", *arguments]) == 0
    return capsys.readouterr().out


def test_a_ray_job_takes_the_options_of_the_run_along(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(
        preview(
            capsys, "--to", "ray-job", "--seed", "3", "--set", "segments=2", "--pip", "einops", "--python", "python"
        )
    )
    words = shlex.split(found["entrypoint"])
    assert words[:4] == ["python", "-m", "raytune_rl.run", "experiment.py"]
    assert words[-4:] == ["--seed", "3", "--set", "segments=2"]
    assert words[words.index("--out") + 1] == found["metadata"]["raytune_rl.out"]
    assert found["runtime_env"]["pip"] == ["einops"]
    assert found["runtime_env"]["working_dir"] == str(Path(FILE).parent)


def test_no_preview_holds_a_token(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    token = "b" * 64
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    (tmp_path / "token").write_text(token)
    for arguments in (
        ["--to", "ray-job", "--token-file", str(tmp_path / "token")],
        ["--to", "slurm"],
        ["--to", "kuberay", "--image", "x", "--volume-claim", "y"],
    ):
        assert token not in preview(capsys, *arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.py", "--to", "slurm"], "there is no experiment file 'nowhere.py'"),
        ([], "give an experiment file"),
        ([FILE], "--to is missing"),
        ([FILE, "--to", "kuberay"], "needs --image"),
        ([FILE, "--to", "kuberay", "--image", "x"], "--volume-claim"),
        ([FILE, "--to", "slurm", "--set", "colour=red"], "there is no field 'colour'"),
        ([FILE, "--to", "slurm", "--sbatch", "time"], "has no '='"),
        ([FILE, "--to", "ray-job", "--address", "http://far.example:8265"], "relative to the job's own folder"),
        ([FILE, "--to", "slurm", "--out", "s3://key:secret@bucket/x"], "holds credentials"),
        ([FILE, "--to", "kuberay", "--image", "x", "--volume-claim", "y", "--out", "x"], "must be below that"),
        (["--fetch", "some-job"], "--fetch needs --out"),
        (["--status", "some-job", "--address", "http://127.0.0.1:9"], "no Ray dashboard answers there"),
        (["--status", "some-job", "--token-file", "/nowhere"], "there is no such file"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert words in said and "secret@" not in said
    assert said.startswith("error: ") and "Traceback" not in said


@pytest.mark.parametrize(("launcher", "program"), [("slurm", "sbatch"), ("kuberay", "kubectl")])
def test_a_missing_program_is_named(
    launcher: str, program: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main([FILE, "--to", launcher, "--image", "x", "--out", "s3://bucket/x"]) == 2
    assert f"{program} is not on this machine" in capsys.readouterr().err
