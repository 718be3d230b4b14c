from __future__ import annotations

import logging
from pathlib import Path

import pytest
from pyarrow import fs

from raytune_rl.rundir.layout import LOG, RunDirectory
from raytune_rl.rundir.log import RunLog


def record(text: str) -> logging.LogRecord:
    return logging.LogRecord("raytune_rl.x", logging.WARNING, __file__, 1, text, None, None)


@pytest.mark.parametrize("local", [True, False])
def test_a_second_session_appends(tmp_path: Path, local: bool) -> None:
    remote = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    directory = RunDirectory(tmp_path / "run") if local else RunDirectory("run", filesystem=remote)
    directory.create()
    for text in ("first", "second ä"):
        log = RunLog(directory)
        log.handle(record(text))
        log.publish()
        assert text in directory.read_bytes(LOG).decode()
        log.close()
        log.close()
    assert [line.split("WARNING raytune_rl.x: ")[1] for line in directory.read_bytes(LOG).decode().splitlines()] == [
        "first",
        "second ä",
    ]


def test_a_full_disk_does_not_stop_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = RunLog(RunDirectory(tmp_path / "run").create())

    class Full:
        closed = False

        def write(self, _: str) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(log, "_stream", Full())
    shown: list[logging.LogRecord] = []
    monkeypatch.setattr(log, "handleError", shown.append)
    assert log.handle(record("lost"))
    assert shown == []  # a traceback would go to the screen
