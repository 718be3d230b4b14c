"""A writer of tables that dies where it is told to; run as a program by ``test_tables_killed``.

It answers each line ``kind number seed`` on its input by forking a writer that goes on with the tables, and prints what
that writer had flushed before it was killed. ``event n`` kills it at the n-th moment when it opens, renames, removes or
has half written a file, ``time n`` after n microseconds, ``never 0`` not at all. Nothing here starts a thread before
the fork.
"""

from __future__ import annotations

import io
import os
import random
import signal
import sys
import time
from typing import Any

import pyarrow as pa

from raytune_rl.rundir import store as store_module
from raytune_rl.rundir import tables as tables_module
from raytune_rl.rundir.layout import RunDirectory
from raytune_rl.rundir.tables import TableWriter
from tests.rundir.steps import ACTIONS, FEATURES, report, step

MEMBERS, STEPS = 4, 12
WATCHED = ("open", "os.rename", "os.remove", "os.listdir", "os.mkdir")


def write(location: str, seed: int, acknowledge: int) -> None:
    """Rewind a little, write some segments, and say after each flush what is on the disk now."""
    rng = random.Random(seed)
    tables_module.PART_ROWS = 9
    types = {"lr": pa.float64()}
    tables = TableWriter(RunDirectory(location), hyperparameters=types, features=FEATURES, actions=ACTIONS)
    start = [max(0, seed * 3 - rng.randint(0, 15)) for _ in range(MEMBERS)]
    for number in range(STEPS):
        # The value tells which writer wrote the row; now and then a metric is new.
        metrics = {"loss": float(seed), **({f"extra{seed}": 1.0} if rng.random() < 0.1 else {})}
        rows = [(member, start[member] + number) for member in range(MEMBERS) if rng.random() < 0.8]
        tables.write(step(*(report(member, segment, metrics=metrics) for member, segment in rows)))
        assert tables.flush()
        os.write(acknowledge, "".join(f"{member},{segment} " for member, segment in rows).encode())


def die_at_event(number: int) -> None:
    seen = 0

    def count(event: str, _: object) -> None:
        nonlocal seen
        if event in WATCHED:
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    class HalfWritten(io.FileIO):
        """Stops for a moment in the middle of a write."""

        def write(self, content: Any, /) -> int:
            view = memoryview(content)
            half = super().write(view[: len(view) // 2])
            count("open", None)
            return half + super().write(view[half:])

    sys.addaudithook(count)
    store_module.open = HalfWritten  # type: ignore[attr-defined]


def main(location: str) -> None:
    for line in sys.stdin:
        kind, number, seed = line.split()
        reader, acknowledge = os.pipe()
        child = os.fork()
        if child == 0:
            if kind == "event":
                die_at_event(int(number))
            try:
                write(location, int(seed), acknowledge)
            except BaseException as error:
                sys.stderr.write(f"{error!r}\n")
                os._exit(1)
            os._exit(0)
        os.close(acknowledge)
        if kind == "time":
            time.sleep(int(number) / 1e6)
            os.kill(child, signal.SIGKILL)
        with open(reader) as answers:
            flushed = answers.read()
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flushed, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
