"""Tasks by their names: those that are judged by, and the tables on which controllers are chosen."""

from __future__ import annotations

import functools
from typing import Final, Literal

from raytune_rl.population.optimisers import OptimizerName
from raytune_rl.worlds import tables
from raytune_rl.worlds.real import SEEN, evaluation_task
from raytune_rl.worlds.task import WorldTask

Group = Literal["seen", "fresh", "tables"]
GROUPS: Final[tuple[Group, ...]] = ("seen", "fresh", "tables")
TITLES: Final[dict[Group, str]] = {
    "seen": "Seen tasks",
    "fresh": "Fresh tasks",
    "tables": "Tables that choices are made on",
}
TABLES: Final = {"train": tables.TRAIN, "validation": tables.VALIDATION}


def group_of(name: str) -> Group:
    """Which comparison a task belongs to."""
    if any(name in names for names in TABLES.values()):
        return "tables"
    return "seen" if name in SEEN else "fresh"


@functools.lru_cache(maxsize=2)
def task_of(name: str, optimizer: OptimizerName) -> WorldTask:
    """Raises ``ModuleNotFoundError`` where its data are in a package that is not installed."""
    return (tables.table_task if group_of(name) == "tables" else evaluation_task)(name, optimizer)
