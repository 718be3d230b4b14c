"""Saves the state of a scheduler beside Tune's own snapshot of the experiment.

Tune saves trials, searcher and callbacks, but not the scheduler. So the scheduler writes its state itself, in two
generations, into ``<experiment>/raytune_rl/``, and loads it when ``Tuner.restore`` brings its trials back.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyarrow import fs as pafs

from raytune_rl.controller.policy import Policy
from raytune_rl.tune.storage import StateStore

logger = logging.getLogger(__name__)

FOLDER = "raytune_rl"
AGENT = "agent"

QUIET_PERIOD = 5.0
"""Seconds between two saves when no decision has changed anything."""
CHANGED_PERIOD = 0.5
"""Seconds between two saves when decisions have. What a crash loses of these is also in Tune's snapshot."""
AGENT_PERIOD = 10.0
"""Seconds between two checkpoints of the agent."""
SHARE = 20
"""Saving takes at most 1/20 of the time: the next save comes no earlier than 20 times the last one's duration."""


class TrialState:
    """The files of one experiment.

    Args:
        filesystem, path: Tune's storage for the experiment.
        clock: seconds, monotonic.
    """

    def __init__(self, filesystem: pafs.FileSystem, path: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._filesystem = filesystem
        self._root = f"{path}/{FOLDER}"
        self._local = isinstance(filesystem, pafs.LocalFileSystem)
        self._store = StateStore(self._root, filesystem)
        self._holder: tempfile.TemporaryDirectory[str] | None = None
        self._due = 0.0
        self._last = clock()
        self._agent_last = clock()

    def load(self) -> Any | None:
        """The newest complete state, or ``None``."""
        return self._store.load()

    def save(self, state: Callable[[], Any], *, changed: bool, force: bool = False) -> bool:
        """Write what ``state()`` returns, unless it is too early (``force``: even then). Returns whether it was
        written."""
        now = self._clock()
        period = CHANGED_PERIOD if changed else QUIET_PERIOD
        if not force and (now < self._due or now - self._last < period):
            return False
        written = self._store.save(state())
        self._last = self._clock()
        self._due = self._last + SHARE * (self._last - now)
        return written

    def save_agent(self, policy: Policy, *, force: bool = False) -> None:
        """Have the policy write its own checkpoint, unless it is too early. With ``force`` always, and wait for it."""
        if not force and self._clock() - self._agent_last < AGENT_PERIOD:
            return
        self._agent_last = self._clock()
        try:
            if not self._local:
                self._upload()  # what the last call started has been written by now
            if policy.save(self._agent_directory(), wait=force) and force and not self._local:
                self._upload()
        except (OSError, RuntimeError) as error:
            logger.warning("the agent's checkpoint could not be written (%s); training goes on", error)

    def restore_agent(self, policy: Policy) -> None:
        """Restore the agent from its checkpoint, if there is one."""
        directory = self._agent_directory()
        source = f"{self._root}/{AGENT}"
        if self._filesystem.get_file_info(source).type != pafs.FileType.Directory:
            return
        if not self._local:
            pafs.copy_files(source, directory, source_filesystem=self._filesystem)
        try:
            policy.restore(directory)
        except ValueError as error:
            logger.warning("the agent begins anew: %s", error)

    def _agent_directory(self) -> str:
        if self._local:
            return f"{self._root}/{AGENT}"
        if self._holder is None:
            self._holder = tempfile.TemporaryDirectory(prefix="raytune_rl-agent-")
        return self._holder.name

    def _upload(self) -> None:
        directory = self._agent_directory()
        if any(Path(directory).iterdir()):
            target = f"{self._root}/{AGENT}"
            self._filesystem.create_dir(target)
            pafs.copy_files(directory, target, destination_filesystem=self._filesystem)
            self._forget_old(target, {path.name for path in Path(directory).iterdir()})

    def _forget_old(self, target: str, keep: set[str]) -> None:
        for info in self._filesystem.get_file_info(pafs.FileSelector(target)):
            if info.type == pafs.FileType.Directory and info.base_name not in keep:
                with contextlib.suppress(OSError):
                    self._filesystem.delete_dir(info.path)
