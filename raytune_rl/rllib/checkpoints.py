"""Agent checkpoints that survive a crash, a full disk or a truncated file.

``<directory>/000012`` is one generation. It is written under another name and then renamed, and the two newest are
kept. Its last file, ``agent.json``, lists every other file with size and checksum; if one does not match, the
generation before is used. ``<generation>/algorithm`` is RLlib's own checkpoint, for ``Algorithm.from_checkpoint``.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raytune_rl.records import SCHEMA_VERSION

NAME = "agent"
"""The checkpoint's directory inside a run directory."""

RECORD = "agent.json"
GENERATIONS = 2

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A complete generation: its directory, and its record (settings, spaces, counters)."""

    path: Path
    record: Mapping[str, Any]


def write(directory: str | Path, fill: Callable[[Path], None], record: Mapping[str, Any]) -> Path:
    """Write a generation, whose files ``fill`` writes into an empty directory. Returns the generation's directory.

    Raises:
        OSError: it could not be written; the generations before are untouched.
    """
    root = Path(directory)
    root.mkdir(parents=True, exist_ok=True)
    numbers = [int(path.name) for path in _generations(root)]
    target = root / f"{max(numbers, default=0) + 1:06d}"
    aside = root / f".writing-{os.getpid()}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        fill(aside)
        files = {str(path.relative_to(aside)): _fingerprint(path) for path in _files(aside)}
        body = json.dumps({"schema_version": SCHEMA_VERSION, **record, "files": files}, indent=1)
        with open(aside / RECORD, "w", encoding="utf-8") as stream:
            stream.write(body)
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    for path in _generations(root)[GENERATIONS:]:
        shutil.rmtree(path, ignore_errors=True)
    return target


def newest(directory: str | Path) -> Checkpoint | None:
    """The newest complete generation, or ``None``. A damaged one is skipped with a warning.

    Raises:
        ValueError: the checkpoint was written by a newer version of this package.
    """
    for path in _generations(Path(directory)):
        record = _verified(path)
        if record is not None:
            return Checkpoint(path=path, record=record)
        log.warning("The agent's checkpoint %s is damaged or incomplete; trying the one before.", path)
    return None


def _generations(root: Path) -> list[Path]:
    """Newest first."""
    if not root.is_dir():
        return []
    return sorted((path for path in root.iterdir() if path.name.isdigit()), key=lambda path: -int(path.name))


def _verified(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((path / RECORD).read_text(encoding="utf-8"))
        whole = all(_fingerprint(path / name) == mark for name, mark in record["files"].items())
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None
    if record["schema_version"] > SCHEMA_VERSION:
        raise ValueError(
            f"{path} has schema version {record['schema_version']}, this package reads up to {SCHEMA_VERSION}."
        )
    return record if whole else None


def _files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


def _fingerprint(path: Path) -> list[int]:
    data = path.read_bytes()
    return [len(data), zlib.crc32(data)]
