"""Files that appear complete or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def aside_of(path: str | os.PathLike[str]) -> str:
    """The name under which ``path`` is prepared. It starts with a dot: parquet readers leave such files alone."""
    folder, name = os.path.split(os.fspath(path))
    return os.path.join(folder, f".{name}.aside")


def is_aside(name: str) -> bool:
    """Whether a file of this name is one that is being prepared, or was when its writer was killed."""
    return name.startswith(".") and name.endswith(".aside")


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a path to write to; what is there afterwards replaces ``path``, which on an error stays as it was.

    The path has one fixed name per target: there is a single writer, and what a killed one left is overwritten instead
    of piling up.
    """
    aside = Path(aside_of(path))
    try:
        yield aside
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)  # a full disk needs the room back
        raise
