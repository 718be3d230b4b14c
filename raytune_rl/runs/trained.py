"""The result of training a population, the same for all kinds of candidates."""

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
    """A trained population, apart from its tables.

    Attributes:
        controller, sink: as they are at the end of training.
        slots: number of trials that could run at once.
        decision_ms: milliseconds that decisions took.
        interrupted: whether training was stopped from outside and can be resumed.
        export: writes the incumbent's model into a folder; returns False if its weights were not saved.
        test: returns the incumbent's metrics on the test split.
        states: returns all saved states, for the ensemble. Its argument is the largest number of bytes to read; raises
            ``ValueError`` (one sentence) if there are more, or if no states are saved.
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
"""Trains the population of an experiment in the given directory, from the given starting points."""
