"""What the progress display knows about a run before its first segment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from raytune_rl.experiment import Experiment
from raytune_rl.population.torch_task import TorchTask
from raytune_rl.progress import Plan
from raytune_rl.rundir import layout
from raytune_rl.rundir.layout import RunDirectory
from raytune_rl.runs.resume import who_decides


def screen_plan(experiment: Experiment, directory: RunDirectory) -> Plan:
    """The plan of a run, including the segments that earlier sessions have trained."""
    return Plan(
        name=experiment.name,
        members=experiment.population,
        metric=experiment.metric,
        mode=experiment.mode,
        directory=str(directory),
        hyperparameters=experiment.space().names,
        segments=experiment.steered_segments,
        algorithm=who_decides(experiment),
        budget_s=experiment.stop.seconds,
        done=_trained_before(directory),
        loadable=isinstance(experiment.candidate, TorchTask),
        network=_network_to_load(experiment.candidate),
    )


def _network_to_load(candidate: object) -> str:
    """The name of the network's function, if ``raytune_rl.load`` needs it because it cannot be imported by name."""
    if not isinstance(candidate, TorchTask):
        return ""
    from raytune_rl.population.export import find_factory, importable_name

    try:
        find_factory(importable_name(candidate.network), Path())
    except ValueError:
        return getattr(candidate.network, "__name__", "...").replace("<lambda>", "...")
    return ""


def _trained_before(directory: RunDirectory) -> Mapping[int, int]:
    """The number of segments that earlier sessions have trained, by member."""
    if not directory.exists(layout.SEGMENTS):
        return {}
    return Counter(directory.read_table(layout.SEGMENTS)["member"].tolist())
