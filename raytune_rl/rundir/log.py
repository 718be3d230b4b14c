"""``run.log``: the log messages of a run, stored in its directory."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from raytune_rl.rundir.layout import LOG, RunDirectory

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class RunLog(logging.Handler):
    """Appends to ``run.log``, over all sessions of a resumed run.

    A local log is written line by line. Object stores cannot append to files, so for them the log is kept in memory,
    and ``publish`` stores all of it. A log that cannot be written (disk full) never stops the run.
    """

    def __init__(self, directory: RunDirectory) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter(FORMAT))
        self._directory = directory
        self._stream: TextIO
        if directory.local is not None:
            self._stream = open(directory.path(LOG), "a", encoding="utf-8", buffering=1)  # noqa: SIM115 (close)
        else:
            self._stream = io.StringIO()
            if directory.exists(LOG):
                self._stream.write(directory.read_bytes(LOG).decode())

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._stream.write(self.format(record) + "\n")
        except OSError:
            pass  # a full disk costs lines of the log, not the run
        except Exception:
            self.handleError(record)

    def publish(self) -> None:
        """Store the log so far, if it is not a local file. To be called now and then."""
        if isinstance(self._stream, io.StringIO):
            try:
                self._directory.write_bytes(LOG, self._stream.getvalue().encode())
            except OSError as error:
                logging.getLogger(__name__).debug("run.log could not be stored: %s", error)

    def close(self) -> None:
        if not self._stream.closed:
            self.publish()
            self._stream.close()
        super().close()


@contextmanager
def logging_into(directory: RunDirectory) -> Iterator[None]:
    """Within this context, write the package's log messages into the run directory, too."""
    log, package = RunLog(directory), logging.getLogger("raytune_rl")
    package.addHandler(log)
    try:
        yield
    finally:
        package.removeHandler(log)
        log.close()
