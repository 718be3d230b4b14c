"""Tune's files are copied while they are whole, and put back when they are broken."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from raytune_rl.errors import BadInput
from raytune_rl.tune.trials.snapshots import PERIOD, Snapshots


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """As Tune leaves one."""
    (tmp_path / "tuner.pkl").write_bytes(pickle.dumps({"settings": list(range(100))}))
    (tmp_path / "experiment_state-2026-01-01.json").write_text(json.dumps({"trials": 1}))
    (tmp_path / "basic-variant-state-2026-01-01.json").write_bytes(pickle.dumps({"searcher": 1}))
    return tmp_path


def cut(path: Path) -> bytes:
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    return whole


@pytest.mark.parametrize(
    "name", ["tuner.pkl", "experiment_state-2026-01-01.json", "basic-variant-state-2026-01-01.json"]
)
def test_what_is_broken_is_put_back(experiment: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    Snapshots(str(experiment)).keep()
    assert Snapshots(str(experiment)).mend()
    assert not caplog.messages
    whole = cut(experiment / name)
    assert Snapshots(experiment.as_uri()).mend()
    assert (experiment / name).read_bytes() == whole
    assert f"{name} is broken" in caplog.text


def test_only_what_is_whole_is_copied(experiment: Path) -> None:
    clock, state = Clock(), experiment / "experiment_state-2026-01-01.json"
    snapshots = Snapshots(str(experiment), clock=clock)
    snapshots.keep()
    state.write_text(json.dumps({"trials": 22}))
    snapshots.keep()  # too early
    clock.now += PERIOD
    snapshots.keep()
    cut(state)
    clock.now += PERIOD
    snapshots.keep()
    assert Snapshots(str(experiment)).mend()
    assert json.loads(state.read_text()) == {"trials": 22}


def test_what_is_broken_without_a_copy_is_named(experiment: Path) -> None:
    cut(experiment / "tuner.pkl")
    with pytest.raises(BadInput, match=r"tuner\.pkl is broken .* no copy"):
        Snapshots(str(experiment)).mend()


def test_the_session_before_is_better_than_nothing(experiment: Path, caplog: pytest.LogCaptureFixture) -> None:
    newer = experiment / "experiment_state-2026-01-02_10-00-00.json"
    newer.write_text('{"trials": ')
    assert Snapshots(str(experiment)).mend()
    assert sorted(path.name for path in experiment.glob("experiment_state-*.json")) == [
        "experiment_state-2026-01-01.json"
    ]
    assert "that of the session before is used" in caplog.text


def test_where_tune_has_left_nothing_a_run_begins(experiment: Path) -> None:
    assert not Snapshots(str(experiment / "nothing")).mend()
    (experiment / "experiment_state-2026-01-01.json").unlink()
    assert not Snapshots(str(experiment)).mend()


def test_what_tune_was_just_writing_is_none_of_its_files(experiment: Path, caplog: pytest.LogCaptureFixture) -> None:
    (experiment / ".73b1a14e-tmp-basic-variant-state-2026-01-02.json").touch()
    Snapshots(str(experiment)).keep()
    assert Snapshots(str(experiment)).mend()
    assert not caplog.messages
