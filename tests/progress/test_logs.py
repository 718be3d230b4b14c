from __future__ import annotations

import io
import logging
from pathlib import Path

import pytest
from rich.console import Console

from raytune_rl.progress.logs import logging_to
from raytune_rl.rundir.layout import LOG, RunDirectory
from raytune_rl.rundir.log import logging_into

logger = logging.getLogger("raytune_rl.tests")


@pytest.mark.parametrize(
    ("quiet", "verbose", "shown", "kept"),
    [
        (False, False, "we", "iwe"),
        (True, False, "e", "iwe"),
        (False, True, "diwe", "diwe"),
    ],
)
def test_who_sees_what(tmp_path: Path, quiet: bool, verbose: bool, shown: str, kept: str) -> None:
    console = Console(file=io.StringIO(), width=40)
    directory = RunDirectory(tmp_path / "run").create()
    texts = {"d": "a detail", "i": "a fact", "w": "a doubt", "e": "[red]an error[/]" + 80 * "."}
    with logging_to(console, quiet=quiet, verbose=verbose), logging_into(directory):
        for level, text in zip(
            (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR), texts.values(), strict=True
        ):
            logger.log(level, text)
    assert isinstance(console.file, io.StringIO)
    log = directory.read_bytes(LOG).decode()
    assert [key for key, text in texts.items() if text in console.file.getvalue()] == list(shown)
    assert [key for key, text in texts.items() if text in log] == list(kept)
    assert "warning: a doubt" in console.file.getvalue() or "w" not in shown


def test_nothing_stays_behind() -> None:
    root = logging.getLogger("raytune_rl")
    before = (list(root.handlers), root.level, root.propagate)
    with pytest.raises(RuntimeError), logging_to(Console(file=io.StringIO())):
        raise RuntimeError
    assert (list(root.handlers), root.level, root.propagate) == before
