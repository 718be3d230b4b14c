"""The scheduler's own files: found again, never half written, and on any file system that Tune takes."""

from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs as pafs

from raytune_rl.tune.trials.state import CHANGED_PERIOD, FOLDER, QUIET_PERIOD, TrialState


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class SavingPolicy:
    """Writes a file as its checkpoint."""

    def __init__(self) -> None:
        self.saves = 0
        self.found: str | None = None

    def save(self, directory: str, *, wait: bool = True) -> bool:
        self.saves += 1
        path = Path(directory, f"{self.saves:06d}")
        path.mkdir(parents=True, exist_ok=True)
        (path / "weights").write_text(str(self.saves))
        return True

    def restore(self, directory: str) -> None:
        self.found = (max(Path(directory).iterdir()) / "weights").read_text()


def local(path: Path, clock: Any = None) -> TrialState:
    return TrialState(pafs.LocalFileSystem(), str(path), clock=clock or Clock())


def test_a_truncated_file_leads_back_to_the_one_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = local(tmp_path)
    for n in (1, 2):
        assert state.save(lambda n=n: {"n": n}, changed=True, force=True)
    assert local(tmp_path).load() == {"n": 2}
    newest = max((tmp_path / FOLDER).glob("state-*.bin"))
    newest.write_bytes(newest.read_bytes()[:-5])
    assert local(tmp_path).load() == {"n": 1}
    assert "cannot be used" in caplog.text


def test_nothing_there_is_nothing_found(tmp_path: Path) -> None:
    assert local(tmp_path).load() is None


def test_saves_are_rare_and_changes_come_first(tmp_path: Path) -> None:
    clock = Clock()
    state = local(tmp_path, clock)
    assert not state.save(dict, changed=True)
    clock.now = CHANGED_PERIOD
    assert not state.save(dict, changed=False)
    assert state.save(dict, changed=True)
    clock.now += QUIET_PERIOD
    assert state.save(dict, changed=False)


def test_a_slow_disk_is_left_alone_for_longer(tmp_path: Path) -> None:
    clock = Clock()
    state = local(tmp_path, clock)

    def slow() -> dict[str, int]:
        clock.now += 2.0
        return {}

    assert state.save(slow, changed=True, force=True)
    clock.now += 30.0
    assert not state.save(dict, changed=True)
    clock.now += 10.0
    assert state.save(dict, changed=True)


def test_the_agent_is_saved_and_found_on_a_local_disk(tmp_path: Path) -> None:
    policy: Any = SavingPolicy()
    local(tmp_path).save_agent(policy, force=True)
    local(tmp_path).restore_agent(policy)
    assert policy.found == "1"


def test_everything_works_on_a_remote_file_system(tmp_path: Path) -> None:
    # A file system whose paths are not local ones, as an object store's are not.
    def remote() -> TrialState:
        store = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
        return TrialState(store, "bucket/experiment", clock=Clock())

    policy: Any = SavingPolicy()
    state = remote()
    state.restore_agent(policy)
    assert policy.found is None
    state.save(lambda: {"n": 1}, changed=True, force=True)
    state.save_agent(policy, force=True)
    state.save_agent(policy, force=True)
    assert remote().load() == {"n": 1}
    remote().restore_agent(policy)
    assert policy.found == "2"
    assert (tmp_path / "bucket/experiment" / FOLDER / "agent" / "000002" / "weights").exists()


def test_an_agent_that_cannot_be_saved_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Full(SavingPolicy):
        def save(self, directory: str, *, wait: bool = True) -> bool:
            raise OSError("no space left on device")

    policy: Any = Full()
    local(tmp_path).save_agent(policy, force=True)
    assert "no space left" in caplog.text
