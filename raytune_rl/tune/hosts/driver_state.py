"""What the scheduler has in the driver's process: whom it calls, and what becomes of the run."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from raytune_rl.records import Report, Step

LATENCY_SAMPLES = 100_000


class DecisionMaker(Protocol):
    """What the scheduler needs of ``controller.Controller``."""

    def step(self, reports: Sequence[Report]) -> Step: ...
    def learn(self, *, wait: bool = False) -> None: ...
    def drop(self, members: Iterable[int]) -> None: ...
    def durable(self, member: int, segment: int) -> None: ...


class Sink(Protocol):
    """Writes the tables."""

    def record(self, step: Step) -> None:
        """Take note of a step. Called while trials wait for their decisions, so it has to be quick."""
        ...

    def flush(self) -> bool:
        """Make tables and controller state durable up to here; False if the disk refuses. A host saves its state only
        afterwards, so no state file ever holds a segment that the tables lack."""
        ...


@dataclass
class DriverState:
    """Driver-side state of the scheduler; it is not pickled with it.

    Attributes:
        controller, sink: decide and write down.
        clock: seconds, for the time between state files.
        latencies: seconds from a report's arrival to its decision being on the way, the newest ones.
        interrupted: why the run ends before its members are done, if it does.
        fatal: the error that ends the run.
        restarts: of trial actors.
        dropped: members whose trial failed too often.
        errors: by trial, why it was given up.
    """

    controller: DecisionMaker | None = None
    sink: Sink | None = None
    clock: Callable[[], float] = time.monotonic
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=LATENCY_SAMPLES))
    interrupted: str | None = None
    fatal: Exception | None = None
    restarts: int = 0
    dropped: list[int] = field(default_factory=list)
    errors: dict[int, str] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]
