"""What training a population leaves behind, however its members were driven."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from raytune_rl.controller.controller import Controller
from raytune_rl.ensemble.kept import Kept
from raytune_rl.experiment import Experiment
from raytune_rl.records import Value
from raytune_rl.rundir.layout import RunDirectory
from raytune_rl.runs.sink import RunSink


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedPopulation:
    """A trained population, beside its tables.

    Attributes:
        controller, sink: with everything they have counted.
        slots: trials that could run at once.
        decision_ms: how long decisions took.
        interrupted: whether training was stopped from outside and can go on.
        export: writes the incumbent's model into a folder; False if its weights are not there.
        test: the incumbent's metrics on the test split.
        states: all states that were kept, for the ensemble. Called with the most bytes that may be read for it; raises
            ``ValueError`` (one sentence) when there are more, or none.
    """

    controller: Controller
    sink: RunSink
    slots: int
    decision_ms: Sequence[float]
    interrupted: bool
    export: Callable[[Path], bool]
    test: Callable[[], Mapping[str, float]]
    states: Callable[[float], Sequence[Kept]]


TrainPopulation: TypeAlias = Callable[[Experiment, RunDirectory, Sequence[Mapping[str, Value]]], TrainedPopulation]
"""Trains an experiment's population from given starting points in a directory of its own."""
