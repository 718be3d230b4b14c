"""Trains a population in hosts, which are trials with several members that never pause (torch tasks, Trainables)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from raytune_rl.controller.controller import Controller
from raytune_rl.ensemble.kept import ORIGINS, Kept
from raytune_rl.errors import BadInput
from raytune_rl.experiment import Experiment
from raytune_rl.population.candidate import Candidate, State
from raytune_rl.records import Value
from raytune_rl.rundir.layout import RunDirectory
from raytune_rl.runs.sink import RunSink
from raytune_rl.runs.trained import TrainedPopulation
from raytune_rl.signals import Stoppable
from raytune_rl.tune.hosts.run import PopulationPlan, PopulationRun
from raytune_rl.tune.hosts.state_files import read_snapshot, read_snapshots
from raytune_rl.tune.storage import StateStore

logger = logging.getLogger(__name__)


def train_hosted(
    experiment: Experiment,
    directory: RunDirectory,
    candidate: Candidate,
    controller: Controller,
    sink: RunSink,
    *,
    groups: Sequence[Sequence[int]],
    points: Sequence[Mapping[str, Value] | None],
    stop: Stoppable,
) -> TrainedPopulation:
    """Train to the end or to an interruption, continuing the run in ``directory`` if there is one.

    Args:
        groups: the members of each trial.

    Raises:
        BadInput: the candidate does not report the metric.
    """
    if sink.restore():
        logger.info("going on with the run in %s", directory)
    plan = PopulationPlan(
        candidate=candidate,
        start={member: controller.begin(member, point) for member, point in enumerate(points)},
        groups=groups,
        resources=experiment.resources,
        directory=str(directory),
        segment_length=experiment.segment_length,
        metric=experiment.metric,
        mode=experiment.mode,
        seed=experiment.seed,
        segment_timeout=experiment.segment_timeout,
        synchronous=experiment.synchronous,
        checkpoint_every=experiment.checkpoint_every,
        snapshot_every=_snapshot_every(experiment),
    )
    population = PopulationRun(plan, controller, sink)
    try:
        with stop.by(population.request_stop):
            outcome = population.fit()
    except ValueError as error:
        raise BadInput(str(error)) from None
    sink.flush()
    if controller.problem is not None:
        raise BadInput(controller.problem)

    results = _SavedStates(plan, controller)
    return TrainedPopulation(
        controller=controller,
        sink=sink,
        slots=len(plan.groups),
        decision_ms=[1e3 * seconds for seconds in outcome.decision_seconds],
        interrupted=outcome.interrupted is not None,
        export=results.export,
        test=results.test,
        states=results.states,
    )


class _SavedStates:
    """The members' states in the state files of the hosts."""

    def __init__(self, plan: PopulationPlan, controller: Controller) -> None:
        self._plan = plan
        self._controller = controller
        self._kept: list[Kept] | None = None

    def export(self, path: Path) -> bool:
        """Write the best model; returns False if there is none."""
        state = self._best()
        if state is not None:
            self._plan.candidate.export(state, path)
        return state is not None

    def test(self) -> Mapping[str, float]:
        """The best model's metrics on the test split; empty if there is no model."""
        state = self._best()
        return {} if state is None else self._plan.candidate.test(state)

    def states(self, most_bytes: float) -> list[Kept]:
        """The members' final, best and intermediate states, from which the delivered model and the ensemble are chosen.

        Raises:
            ValueError: they take more than ``most_bytes``.
        """
        size = sum(StateStore(uri).size() for uri in self._plan.state_uris)
        if size > most_bytes:
            raise ValueError(f"the run's states take {size / 2**30:.1f} GiB")
        if self._kept is None:
            by_trial = [read_snapshots(uri) for uri in self._plan.state_uris]
            self._kept = [
                Kept(member=snapshot.member, segment=snapshot.segment, origin=origin, state=snapshot.state)
                for origin in ORIGINS
                for snapshots in by_trial
                for snapshot in snapshots[origin]
            ]
        return self._kept

    def _best(self) -> State | None:
        incumbent = self._controller.incumbent
        if incumbent is None:
            return None
        trial = next(i for i, group in enumerate(self._plan.groups) if incumbent.member in group)
        snapshot = read_snapshot(self._plan.state_uris[trial], incumbent.member, best=True)
        return None if snapshot is None else snapshot.state


def _snapshot_every(experiment: Experiment) -> int:
    """Segments between two snapshots for the ensemble; 0 for none."""
    wanted = experiment.ensemble.snapshots if experiment.ensemble is not None else 0
    return max(1, experiment.steered_segments // (wanted + 1)) if wanted else 0
