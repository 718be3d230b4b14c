"""Backups of Tune's own snapshot of an experiment, for a restore that finds it broken.

Tune overwrites its files in place, so a crash can truncate any of them, and then the experiment cannot be restored. The
backups are state files of ours: atomic, with a checksum, in two generations.
"""

from __future__ import annotations

import json
import logging
import pickletools
import re
import time
from collections.abc import Callable
from fnmatch import fnmatch

from pyarrow import fs as pafs

from raytune_rl.errors import BadInput
from raytune_rl.tune.storage import StateStore
from raytune_rl.tune.trials.state import FOLDER

logger = logging.getLogger(__name__)

_SESSION = re.compile(r"(?<=-)\d{4}-[\d_-]+(?=\.)")
TUNER = "tuner.pkl"
TRIALS = "experiment_state-*.json"
PERIOD = 5.0
"""Seconds between two checks for changes."""
SHARE = 20
"""Copying takes at most 1/20 of the time."""


class Snapshots:
    """Backups of Tune's files in an experiment's directory: settings, trials, searcher.

    Args:
        path: of that directory, local or a URI.
        clock: seconds, monotonic.
    """

    def __init__(self, path: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._filesystem, self._root = _opened(path)
        self._clock = clock
        self._due = clock()
        self._stamps: dict[str, tuple[int, int | None]] = {}

    def keep(self) -> None:
        """Back up the files that have changed and are complete, unless it is too early for that."""
        began = self._clock()
        if began < self._due:
            return
        names = []
        try:
            for info in self._files():
                stamp = (info.size, info.mtime_ns)
                names.append(info.base_name)
                if self._stamps.get(info.base_name) != stamp:
                    data = self._read(info.base_name)
                    if _is_whole(data) and self._copies(info.base_name).save(data):  # Tune may be writing it now
                        self._stamps[info.base_name] = stamp
        except OSError as error:
            logger.warning("Tune's snapshot cannot be copied (%s); training goes on", error)
        now = self._clock()
        complete = all(any(fnmatch(name, wanted) for name in self._stamps) for wanted in (TUNER, TRIALS))
        self._due = now + SHARE * (now - began) + (PERIOD if complete else 0.0)

    def mend(self) -> bool:
        """Replace broken files by their backups. Returns whether there is an experiment to continue.

        Raises:
            BadInput: a file is broken, and there is no backup of it.
        """
        sessions: dict[str, list[str]] = {}
        for info in self._files():
            sessions.setdefault(_SESSION.sub("*", info.base_name), []).append(info.base_name)
        if TUNER not in sessions or TRIALS not in sessions:
            return False
        for names in sessions.values():
            self._mend_newest(sorted(names))
        return True

    def _mend_newest(self, names: list[str]) -> None:
        """Mend the newest of ``names``, the same file of all sessions, oldest first: Tune reads only that one."""
        *earlier, name = names
        if _is_whole(self._read(name)):
            return
        place = f"{self._root}/{name}"
        try:
            data = self._copies(name).load()
        except PermissionError as error:
            raise BadInput(str(error)) from None
        if data is not None:
            logger.warning("%s is broken (cut short?); the copy of it from before is used", place)
            with self._filesystem.open_output_stream(place) as stream:
                stream.write(data)
        elif earlier:
            logger.warning("%s is broken (cut short?); that of the session before is used", place)
            self._filesystem.move(place, f"{place}.broken")
            self._mend_newest(earlier)
        else:
            raise BadInput(
                f"{place} is broken (cut short?) and there is no copy of it, so this run cannot go on: "
                "begin another one with another --out."
            )

    def _copies(self, name: str) -> StateStore:
        return StateStore(f"{self._root}/{FOLDER}/tune/{name}", self._filesystem)

    def _files(self) -> list[pafs.FileInfo]:
        """The files that Tune reads in a restore. Hidden ones are left over from a crash: Tune writes the searcher's
        state under a hidden name first."""
        infos = self._filesystem.get_file_info(pafs.FileSelector(self._root, allow_not_found=True))
        files = [info for info in infos if info.is_file and info.extension in ("json", "pkl")]
        return [info for info in files if not info.base_name.startswith(".")]

    def _read(self, name: str) -> bytes:
        with self._filesystem.open_input_stream(f"{self._root}/{name}") as stream:
            return bytes(stream.read())


def _opened(path: str) -> tuple[pafs.FileSystem, str]:
    if "://" in path:
        filesystem, root = pafs.FileSystem.from_uri(path)
        return filesystem, str(root)
    return pafs.LocalFileSystem(), path


def _is_whole(data: bytes) -> bool:
    """Whether the bytes are a complete JSON file or a complete pickle, which is parsed without running it."""
    return _parses(lambda: json.loads(data)) or _parses(lambda: list(pickletools.genops(data)))


def _parses(parse: Callable[[], object]) -> bool:
    try:
        parse()
    except ValueError:
        return False
    return True
