"""How many trials can run at once, so that none gives up its slot while others are free.

Tune does not tell. A *pending* trial may be waiting for a slot, or for its own actor to start in a free one. A trial
that is paused for one of the second kind hands over its actor, which cancels the start of the other, and the experiment
collapses to one slot. So the number of slots is calculated from the cluster's resources.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence

import ray
from ray.tune.experiment import Trial

REFRESH = 5.0
"""Seconds between two queries of the cluster's resources; the cluster may grow."""
PATIENCE = 30.0
"""Seconds after which slots that stay free are assumed to be in use by somebody else."""


class Slots:
    """The slots of one experiment, whose trials all need the same resources.

    Args:
        cluster: the cluster's resources by name.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        *,
        cluster: Callable[[], Mapping[str, float]] = ray.cluster_resources,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._clock = clock
        self._read = -math.inf
        self._count = 1
        self._peak = 0
        self._full = clock()

    def all_taken(self, trials: Sequence[Trial]) -> bool:
        """Whether as many trials run as can run."""
        running = [trial for trial in trials if trial.status == Trial.RUNNING]
        if not running:
            return False
        now = self._clock()
        self._peak = max(self._peak, len(running))
        if now - self._read > REFRESH:
            self._read, self._count = now, self._estimate(running[0])
        if len(running) >= self._count:
            self._full = now
        count = min(self._count, self._peak) if now - self._full > PATIENCE else self._count
        return len(running) >= count

    def _estimate(self, trial: Trial) -> int:
        cluster = self._cluster()
        needs = {name: need for name, need in trial.placement_group_factory.required_resources.items() if need > 0}
        shares = [cluster.get(name, 0.0) / need for name, need in needs.items()]
        return max(1, math.floor(min(shares) + 1e-9)) if shares else 2**31
